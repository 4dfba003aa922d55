"""Servers that speak the OpenAI protocol: started by us for a checkpoint, or already there.

An engine that we start is asked for exactly what the recipe says: sampling defaults that a model
folder brings along (top_p, top_k, repetition penalty) are neutralised, the chat template's think
mode is the recipe's, and the answer comes back raw.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from toolgenesis_sft.client import ModelClient
from toolgenesis_sft.config import Generate, resolve_path
from toolgenesis_sft.errors import HarnessFault, UserError
from toolgenesis_sft.generation import keeper
from toolgenesis_sft.generation.models import AskedModel
from toolgenesis_sft.runs import read_json, write_json

START_TIMEOUT_S = 1800.0  # a large model is read from a slow disk and compiled
POLL_S = 0.25
END_SEEN_S = 5.0  # from a server's last byte until its keeper has ended too
END_TIMEOUT_S = keeper.GRACE_S + 10
HOST = "127.0.0.1"
PAGE_TOKENS = 64  # page of the paged KV cache (transformers)
PROMPT_TOKENS = 1024  # room in that cache for a request's prompt, beside its answer
STEP_TOKENS = 512  # of one batched step; its attention mask is this times the whole cache
# For torch on a CPU. Threads that spin at a barrier cost a busy machine 50 times the answer's own
# time, and a mask that goes back to the kernel after each step costs its pages again.
CPU_SERVING = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31),
}
# Below this size of weights a second thread costs more than it computes: such a model gets a
# server of one thread for each processor instead, up to MAX_SERVERS.
SMALL_MODEL_BYTES = 256 * 2**20
MAX_SERVERS = 8
NAMED_ERROR = re.compile(r"\b\w+(?:Error|Exception): .+")
HARMLESS = re.compile(r"\b(?:WARNING|INFO|DEBUG)\b")
NEUTRAL_SAMPLING = {"top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}
# `transformers serve` answers 500 where text merely looks like a broken tool call, and drops what
# stands before a turn's end: with this template it hands out the text as it was generated.
RAW_RESPONSE = {
    "defaults": {"role": "assistant"},
    "start_anchor_pattern": "\\Z",
    "fields": {"content": {"content": "text", "content_args": {"strip": False}}},
}


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
        )

    def died(self) -> bool:
        """Whether a server of ours has ended; an endpoint is never ours to judge.

        Asked after a broken connection, which comes before the end of the process can be seen: so
        this waits a moment for it.
        """
        if self._process is None:
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


@contextlib.contextmanager
def open_engines(
    settings: Generate, model: AskedModel, thinking: bool, attempt: Path, num_requests: int
) -> Iterator[list[Engine]]:
    """Healthy servers of one model, to share the requests; they end with the block.

    One server, except for a small model on a CPU: there one a processor. Logs go to the
    attempt's folder.
    """
    if model.folder is None:
        yield [endpoint_engine(settings, model)]
        return
    if settings.engine == "vllm":
        engines = [vllm_engine(settings, model, thinking, attempt, choose_port(settings.port))]
    else:
        engines = transformers_engines(settings, model, thinking, attempt, num_requests)
    try:
        for engine in engines:
            engine.launch()
        for engine in engines:
            engine.wait_until_healthy()
        yield engines
    finally:
        for engine in engines:
            engine.stop()


def endpoint_engine(settings: Generate, model: AskedModel) -> Engine:
    assert settings.endpoint_url is not None
    return Engine(
        settings=settings,
        base_url=settings.endpoint_url,
        model=model.source,
        concurrency=settings.concurrency,
    )


def transformers_engines(
    settings: Generate, model: AskedModel, thinking: bool, attempt: Path, num_requests: int
) -> list[Engine]:
    """`transformers serve` on a local folder, as often as it pays.

    Greedy requests are batched (paged attention gives the same tokens). Sampled ones go one by
    one: the server has a single random generator, so a seed only holds for a request alone.
    """
    assert model.folder is not None
    binary = Path(sys.executable).with_name("transformers")
    if not binary.exists():
        raise UserError(
            "generate.engine",
            "transformers",
            f"{binary} is not there",
            'pip install "toolgenesis-sft[serve]" torch, or set generate.engine=vllm or endpoint',
        )
    on_gpu = Path("/dev/nvidia0").exists()
    greedy = settings.temperature == 0
    small = not on_gpu and weight_bytes(model.folder) < SMALL_MODEL_BYTES
    several = small and settings.port is None
    num_servers = min(len(os.sched_getaffinity(0)), MAX_SERVERS, num_requests) if several else 1
    concurrency = math.ceil(settings.concurrency / num_servers) if greedy else 1
    served = attempt / f"served_{model.label.replace('/', '_')}"
    write_served_folder(model.folder, served, greedy)
    command = [str(binary), "serve", "."]
    command += ["--host", HOST, "--device", "auto" if on_gpu else "cpu"]
    if greedy:
        context = settings.max_model_len or PROMPT_TOKENS + settings.max_tokens
        pages = concurrency * math.ceil(context / PAGE_TOKENS)
        command += ["--continuous-batching", "--cb-block-size", str(PAGE_TOKENS)]
        command += ["--cb-num-blocks", str(pages), "--cb-max-batch-tokens", str(STEP_TOKENS)]
    threads = {"OMP_NUM_THREADS": "1"} if small else {}
    return [
        Engine(
            settings=settings,
            base_url=f"http://{HOST}:{port}/v1",
            model=".",  # the folder it runs in: a path with `@` or `:` is taken for a revision
            log=served / f"server_{number}.log",
            command=(*command, "--port", str(port)),
            extra_body={"chat_template_kwargs": {"enable_thinking": thinking}},
            end_markers=stop_tokens(model.folder),
            environment={} if on_gpu else CPU_SERVING | threads,
            concurrency=concurrency,
        )
        for number, port in enumerate(choose_port(settings.port) for _ in range(num_servers))
    ]


def weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def vllm_engine(
    settings: Generate, model: AskedModel, thinking: bool, attempt: Path, port: int
) -> Engine:
    """vLLM's OpenAI server, from its own environment or from this one."""
    python = engine_interpreter(settings)
    name = "asked"
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(model.folder), "--served-model-name", name]
    command += ["--host", HOST, "--port", str(port), "--seed", str(settings.seed)]
    command += ["--tensor-parallel-size", str(settings.tensor_parallel)]
    command += ["--max-num-seqs", str(settings.concurrency), "--enable-prefix-caching"]
    command += ["--override-generation-config", json.dumps(NEUTRAL_SAMPLING)]
    # Qwen writes tool calls as Hermes does; read as such only where a request brings tools.
    command += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    if settings.max_model_len is not None:
        command += ["--max-model-len", str(settings.max_model_len)]
    if settings.memory_share is not None:
        command += ["--gpu-memory-utilization", str(settings.memory_share)]
    folder = attempt / f"served_{model.label.replace('/', '_')}"
    folder.mkdir(parents=True, exist_ok=True)
    return Engine(
        settings=settings,
        base_url=f"http://{HOST}:{port}/v1",
        model=name,
        log=folder / "server.log",
        command=tuple(command),
        extra_body={"chat_template_kwargs": {"enable_thinking": thinking}},
        concurrency=settings.concurrency,
    )


def engine_interpreter(settings: Generate) -> Path:
    """The interpreter that has vLLM. Raises UserError that says how to get one."""
    if settings.engine_python is not None:
        python = resolve_path(settings.engine_python).absolute()
        if not python.exists():
            raise UserError(
                "generate.engine_python",
                settings.engine_python,
                "is no interpreter",
                "give the bin/python of the environment that has vLLM",
            )
        return python
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            "generate.engine",
            "vllm",
            "vLLM is not installed here",
            "set generate.engine_python to the bin/python of its environment, or"
            " generate.engine=transformers",
        )
    return Path(sys.executable)


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


def write_served_folder(folder: Path, served: Path, greedy: bool) -> None:
    """What `transformers serve` sees: links to the model's files, and the two settings files that
    decide how it samples and answers, written by us."""
    served.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        (served / path.name).symlink_to(path.resolve())
    stop = {
        name: value
        for name, value in {
            **read_json(folder / "config.json"),
            **(read_json(folder / GENERATION) if (folder / GENERATION).exists() else {}),
        }.items()
        if name in ("eos_token_id", "pad_token_id", "bos_token_id")
    }
    sampling = {} if greedy else NEUTRAL_SAMPLING
    replace(served / GENERATION, {**stop, "do_sample": not greedy, **sampling})
    tokenizer = read_json(folder / TOKENIZER) if (folder / TOKENIZER).exists() else {}
    replace(served / TOKENIZER, {**tokenizer, "response_template": RAW_RESPONSE})


GENERATION = "generation_config.json"
TOKENIZER = "tokenizer_config.json"


def replace(link: Path, value: dict[str, Any]) -> None:
    link.unlink(missing_ok=True)
    write_json(link, value)


def stop_tokens(folder: Path) -> tuple[str, ...]:
    """The texts of the tokens that end an answer: a raw completion ends with one of them."""
    tokenizer = read_json(folder / TOKENIZER) if (folder / TOKENIZER).exists() else {}
    texts = []
    for name in ("eos_token", "pad_token"):
        token = tokenizer.get(name)
        texts.append(token["content"] if isinstance(token, dict) else token)
    return tuple(text for text in texts if isinstance(text, str) and text)


def last_words(log: Path | None) -> str:
    """Why a server ended, as its log says: the first error it names, else its last line."""
    if log is None or not log.exists():
        return "no log"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    if not lines:
        return "it wrote nothing"
    said = (NAMED_ERROR.search(line) for line in lines if not HARMLESS.search(line))
    return next((found[0] for found in said if found), lines[-1])[:300]
