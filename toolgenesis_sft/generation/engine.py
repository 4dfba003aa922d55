"""The engines: what stands behind the client, for the length of a `with` block.

An engine that we start is asked for exactly what the recipe says: sampling defaults that a model
folder brings along (top_p, top_k, repetition penalty) are neutralised, the chat template's think
mode is the recipe's, and the answer comes back raw.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from toolgenesis_sft.config import Generate
from toolgenesis_sft.generation.models import AskedModel
from toolgenesis_sft.generation.server import Engine, choose_port
from toolgenesis_sft.generation.transformers_serve import transformers_engines
from toolgenesis_sft.generation.vllm_serve import vllm_engine


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
