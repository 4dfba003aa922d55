"""vLLM's OpenAI server, from an environment of its own or from this one."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

from toolgenesis_sft.config import Generate, resolve_path
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.generation.models import AskedModel
from toolgenesis_sft.generation.server import HOST, NEUTRAL_SAMPLING, Engine


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
