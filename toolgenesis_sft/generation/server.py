"""A server of ours that speaks the OpenAI protocol: started, watched, started again, ended."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from toolgenesis_sft.client import ModelClient
from toolgenesis_sft.config import Generate
from toolgenesis_sft.errors import HarnessFault, UserError
from toolgenesis_sft.generation import keeper
from toolgenesis_sft.records import Message

START_TIMEOUT_S = 1800.0  # a large model is read from a slow disk and compiled
POLL_S = 0.25
END_SEEN_S = 5.0  # from a server's last byte until its keeper has ended too
END_TIMEOUT_S = keeper.GRACE_S + 10
DEAD_WORKER = "worker is dead"  # says a `transformers serve` that answers nothing any more
HOST = "127.0.0.1"
NEUTRAL_SAMPLING = {"top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}
NAMED_ERROR = re.compile(r"\b\w+(?:Error|Exception): .+")
HARMLESS = re.compile(r"\b(?:WARNING|INFO|DEBUG)\b")


@dataclass
class Engine:
    """A server that answers, and how to start it again should it die."""

    settings: Generate
    base_url: str
    model: str
    log: Path | None = None
    command: tuple[str, ...] = ()
    extra_body: dict[str, Any] = field(default_factory=dict)
    end_markers: tuple[str, ...] = ()
    room: Callable[[Sequence[Message]], int] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    concurrency: int = 1
    num_restarts: int = 0
    _process: subprocess.Popen[bytes] | None = None

    def client(self) -> ModelClient:
        return ModelClient(
            base_url=self.base_url,
            model=self.model,
            key_variable=None if self.command else self.settings.api_key_variable,
            concurrency=self.concurrency,
            request_timeout_s=self.settings.request_timeout_s,
            extra_body=self.extra_body,
            end_markers=self.end_markers,
            room=self.room,
        )

    def died_of(self, fault: HarnessFault) -> bool:
        """Whether this fault is the end of a server of ours; an endpoint is never ours to judge.

        A broken connection comes before the end of the process can be seen: so this waits a moment
        for it. A server whose worker is dead still listens, and is ended here.
        """
        if self._process is None:
            return False
        if DEAD_WORKER in fault.detail:
            self.stop()
            return True
        if fault.kind != "endpoint_unreachable":
            return False
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SEEN_S)
        return self._process.returncode is not None

    def launch(self) -> None:
        """Start the server; it is there once `wait_until_healthy` returns."""
        assert self.log is not None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(keeper.__file__), *self.command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self.log.parent,
                env=server_environment(self.environment),
            )

    def wait_until_healthy(self) -> None:
        """Raises UserError where the server ends first, HarnessFault where it never answers."""
        assert self._process is not None
        health = f"http://{HOST}:{httpx.URL(self.base_url).port}/health"
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise UserError(
                    "generate.engine",
                    self.settings.engine,
                    f"the server ended while starting ({last_words(self.log)})",
                    f"read {self.log}",
                )
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(health, timeout=5, trust_env=False).status_code == 200:
                    return
            time.sleep(POLL_S)
        self.stop()
        raise HarnessFault("engine_start", f"not healthy in {START_TIMEOUT_S} s; log: {self.log}")

    def restart(self) -> None:
        """Once: a server that dies again has a cause that a restart does not mend."""
        if self.num_restarts:
            raise HarnessFault(
                "engine_died", f"the server died twice; log: {self.log} ({last_words(self.log)})"
            )
        self.num_restarts += 1
        print(f"generate: the server died and is started again; log: {self.log}", file=sys.stderr)
        self.launch()
        self.wait_until_healthy()

    def stop(self) -> None:
        """End the server with its whole process group."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def server_environment(defaults: dict[str, str]) -> dict[str, str]:
    """The environment of a started server: a local folder needs no network, so it gets none.

    defaults: variables for the server that the user's own settings go before.
    """
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    secrets = ("KEY", "TOKEN", "SECRET", "PASSWORD")
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not any(word in name.upper() for word in secrets)
    }
    return {**defaults, **inherited, **offline, "PYTHONWARNINGS": "ignore"}


def choose_port(asked: int | None) -> int:
    """A free port, or the one asked for. Raises UserError where that one is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, asked or 0))
        except OSError as error:
            raise UserError(
                "generate.port",
                asked,
                f"cannot be used ({error.strerror})",
                "end what listens there, or leave the field out for a free port",
            ) from error
        return int(probe.getsockname()[1])


def last_words(log: Path | None) -> str:
    """Why a server ended, as its log says: the first error it names, else its last line."""
    if log is None or not log.exists():
        return "no log"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    if not lines:
        return "it wrote nothing"
    said = (NAMED_ERROR.search(line) for line in lines if not HARMLESS.search(line))
    return next((found[0] for found in said if found), lines[-1])[:300]
