"""`transformers serve` on a local folder: the engine where there is no GPU."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer

from toolgenesis_sft.config import Generate
from toolgenesis_sft.errors import HarnessFault, UserError
from toolgenesis_sft.generation.models import AskedModel
from toolgenesis_sft.generation.server import HOST, NEUTRAL_SAMPLING, Engine, choose_port
from toolgenesis_sft.records import Message
from toolgenesis_sft.runs import read_json, write_json

GENERATION = "generation_config.json"
TOKENIZER = "tokenizer_config.json"
PAGE_TOKENS = 64  # page of the paged KV cache (transformers)
PROMPT_TOKENS = 1024  # room in that cache for a request's prompt, beside its answer
LONG_PROMPT_TOKENS = 4096  # for one at a time; a request that finds no room at all ends the server
TURN_TOKENS = 16  # what a chat template puts around a turn, at most
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
# `transformers serve` answers 500 where text merely looks like a broken tool call, and drops what
# stands before a turn's end: with this template it hands out the text as it was generated.
RAW_RESPONSE = {
    "defaults": {"role": "assistant"},
    "start_anchor_pattern": "\\Z",
    "fields": {"content": {"content": "text", "content_args": {"strip": False}}},
}


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
    room = Room.of(settings, model.folder)
    served = attempt / f"served_{model.label.replace('/', '_')}"
    write_served_folder(model.folder, served, greedy)
    command = [str(binary), "serve", "."]
    command += ["--host", HOST, "--device", "auto" if on_gpu else "cpu"]
    if greedy:
        usual = settings.max_model_len or PROMPT_TOKENS + settings.max_tokens
        cached = max(concurrency * usual, longest_talk_tokens(settings, model.folder))
        pages = math.ceil(cached / PAGE_TOKENS)
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
            room=room,
            environment={} if on_gpu else CPU_SERVING | threads,
            concurrency=concurrency,
        )
        for number, port in enumerate(choose_port(settings.port) for _ in range(num_servers))
    ]


@dataclass(frozen=True)
class Room:
    """Tokens that messages leave for an answer: this server checks no length, and one request that
    is too long for its cache ends it for all."""

    tokenizer: Tokenizer
    limit: int
    context: float

    @classmethod
    def of(cls, settings: Generate, folder: Path) -> Self | None:
        """None for a tokenizer in another format than tokenizer.json."""
        path = folder / "tokenizer.json"
        if not path.exists():
            return None
        limit = longest_talk_tokens(settings, folder)
        return cls(Tokenizer.from_file(str(path)), limit, context_tokens(settings, folder))

    def __call__(self, messages: Sequence[Message]) -> int:
        """Raises HarnessFault where the model would have room, and the server has not."""
        texts = [message.content for message in messages]
        used = sum(len(encoded.ids) for encoded in self.tokenizer.encode_batch(texts))
        used += TURN_TOKENS * (len(messages) + 1)
        if used >= self.limit and self.limit < self.context:
            raise HarnessFault(
                "prompt_too_long", f"{used} tokens; set generate.max_model_len to serve them"
            )
        return self.limit - used


def context_tokens(settings: Generate, folder: Path) -> float:
    """As far as the recipe lets the model read; infinite where neither says."""
    own: float = read_json(folder / "config.json").get("max_position_embeddings", math.inf)
    return min(own, settings.max_model_len or math.inf)


def longest_talk_tokens(settings: Generate, folder: Path) -> int:
    """Prompt, turns and last answer of the longest talk that the recipe can lead to, as far as the
    model's context goes."""
    num_turns = 2 + settings.stated_confidence  # a schema goes before the code
    if "coder_agent" in settings.strategies:
        num_turns += settings.max_turns
    asked = settings.max_model_len or LONG_PROMPT_TOKENS + num_turns * settings.max_tokens
    return int(min(asked, context_tokens(settings, folder)))


def weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


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
