"""A server of ours: its port, its environment, and what its log says of its end."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from toolgenesis_sft.config import Generate
from toolgenesis_sft.errors import HarnessFault, UserError
from toolgenesis_sft.generation.server import Engine, choose_port, last_words, server_environment


def test_a_port_in_use_is_refused_by_number() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"generate.port = {port}: cannot be used"):
            choose_port(port)
    assert choose_port(None) > 0


def test_a_started_server_gets_our_defaults_no_secret_and_no_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("HF_TOKEN", "hf-secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    environment = server_environment({"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"})
    assert (environment["OMP_NUM_THREADS"], environment["OMP_WAIT_POLICY"]) == ("3", "PASSIVE")
    assert not {"OPENAI_API_KEY", "HF_TOKEN"} & set(environment)
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["PATH"] == os.environ["PATH"]


def test_a_server_whose_worker_is_dead_is_ended_and_another_fault_is_not_its_end(
    tmp_path: Path,
) -> None:
    engine = Engine(Generate(), "http://127.0.0.1:1/v1", "x", tmp_path / "log", ("sleep", "600"))
    assert not engine.died_of(HarnessFault("endpoint_unreachable", "an endpoint, none of ours"))
    engine.launch()
    try:
        assert not engine.died_of(HarnessFault("status_503", "busy"))
        assert engine.died_of(HarnessFault("status_503", "CB worker is dead and cannot accept"))
        assert engine.died_of(HarnessFault("endpoint_unreachable", "connection refused"))
    finally:
        engine.stop()


def test_a_log_s_first_error_is_shown_or_its_last_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_words(log) == "no log"
    log.write_text("first\nlast\n\n")
    assert last_words(log) == "last"
    log.write_text("WARNING OSError: maybe\nE  ValueError: the cause\nRuntimeError: failed\nbye\n")
    assert last_words(log) == "ValueError: the cause"
