"""The typed recipe: load, override, check, dump resolved.

A recipe is sparse YAML. Every field has one sentence here and a default that is stated nowhere
else. Unknown keys fail with the nearest known one, duplicate keys fail, and rules that span
fields fail before any work begins.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import SampleKind, Strategy
from toolgenesis_sft.sections import Section, broken_rule, check_keys, execution, first_error
from toolgenesis_sft.yaml_text import parse_yaml, read_yaml


class RandomModel(Section):
    """A Qwen3 with random weights and a tokenizer trained on the corpus."""

    hidden_size: int = Field(256, ge=32, description="width of the residual stream")
    num_layers: int = Field(5, ge=1, description="decoder layers")
    num_heads: int = Field(4, ge=1, description="query heads")
    num_kv_heads: int = Field(2, ge=1, description="key and value heads")
    head_dim: int = Field(64, ge=8, description="width of one head")
    intermediate_size: int = Field(768, ge=32, description="width of the MLP")
    vocab_size: int = Field(
        2000, ge=300, description="upper bound of BPE tokens, specials included"
    )


class Model(Section):
    name_or_path: str | None = Field(None, description="a hub name or a folder to start from")
    random: RandomModel | None = Field(None, description="a random-weight model instead")
    max_position_embeddings: int = Field(40_960, ge=128, description="longest sequence in tokens")

    @model_validator(mode="after")
    def exactly_one(self) -> Self:
        if (self.name_or_path is None) == (self.random is None):
            rule = "set exactly one of model.name_or_path and model.random"
            raise broken_rule(self, rule, "name_or_path", "random")
        return self


class Teacher(Section):
    """A stronger model that writes candidate servers; those that pass become training data."""

    url: str = Field(description="base URL of an OpenAI-compatible endpoint")
    model: str = Field(description="the teacher's name at its endpoint")
    key_variable: str | None = Field(
        None, description="name of the environment variable that holds the endpoint's key"
    )
    strategy: Literal["direct", "coder_agent"] = Field(
        "direct", description="how the teacher is asked for a server"
    )
    num_candidates: int = Field(8, ge=1, description="candidates asked for per training scenario")
    keep_per_scenario: int = Field(
        40, ge=1, description="verified candidates kept per scenario, the most diverse first"
    )
    min_schema_f1: float = Field(0.8, ge=0, le=1, description="candidates below are rejected")
    min_ut_hard: float = Field(1.0, ge=0, le=1, description="candidates below are rejected")
    temperature: float = Field(0.8, ge=0, description="0 gives one answer over and over")
    max_tokens: int = Field(8192, ge=1, description="new tokens of one completion")
    seed: int = Field(0, ge=0, description="candidate i is asked for with seed + i")
    licence: str = Field("not stated", description="terms that the teacher's answers are under")


class Data(Section):
    sources: tuple[str, ...] = Field(
        ("benchmark",),
        min_length=1,
        description="what the training set is made of: `benchmark` (its train split and servers),"
        " `teacher` (data.teacher), names in data.catalogue, or paths",
    )
    catalogue: str = Field(
        "data/sources.yaml", description="where sources are declared: path, layout, licence, digest"
    )
    servers: str | None = Field(
        None, description="folder with <slug>.py, the reference servers of the benchmark"
    )
    teacher: Teacher | None = Field(
        None, description="who writes further candidates, and scenarios if data.scenarios says so"
    )
    scenarios: Literal["template", "teacher"] = Field(
        "template",
        description="who writes the scenario of a server that has none: a template over its live"
        " tools, or data.teacher",
    )
    weights: dict[str, float] = Field(
        {}, description="share of the samples by source, adding up to 1; none: all that there is"
    )
    kinds: dict[SampleKind, float] = Field(
        {"server": 1.0}, description="share of the samples made of servers by kind, adding up to 1"
    )
    max_scenarios: int | None = Field(
        None,
        ge=1,
        description="take only this many training scenarios, the shortest answers that pass first",
    )
    max_tokens: int = Field(16_384, ge=64, description="longer samples are dropped, and counted")
    val_share: float = Field(
        0.0, ge=0.0, lt=1.0, description="share of servers (and trajectories) for validation"
    )
    overlap: Literal["exclude", "report", "allow"] = Field(
        "exclude", description="what to do with samples that show a held-out server"
    )
    num_processes: int = execution(2, "processes that convert and tokenise samples", ge=1)
    expected_num_samples: int | None = Field(
        None, ge=1, description="number of samples that `plan` assumes while no data is built"
    )
    expected_mean_tokens: int = Field(
        2_500, ge=16, description="mean sample length that `plan` assumes while no data is built"
    )

    @model_validator(mode="after")
    def shares_add_up(self) -> Self:
        for name, shares in (("kinds", self.kinds), ("weights", self.weights)):
            if shares and (min(shares.values()) < 0 or not abs(sum(shares.values()) - 1) <= 0.005):
                raise broken_rule(self, "must be shares of 0 or more that add up to 1", name)
        if self.weights and set(self.weights) != set(self.sources):
            rule = "data.weights must name exactly the sources of data.sources"
            raise broken_rule(self, rule, "weights", "sources")
        wanted = "teacher" in self.sources or self.scenarios == "teacher"
        if wanted != (self.teacher is not None):
            rule = (
                "the section data.teacher and its use, the source `teacher` or"
                " data.scenarios=teacher, go together"
            )
            raise broken_rule(self, rule, "teacher", "sources", "scenarios")
        return self


class Train(Section):
    epochs: int = Field(3, ge=1, description="passes over the training set")
    global_batch_size: int = Field(
        64, ge=1, description="samples (or tokens) of one optimizer step"
    )
    batch_unit: Literal["samples", "tokens"] = Field(
        "samples", description="what global_batch_size counts"
    )
    max_row_tokens: int = Field(16_384, ge=64, description="longest packed row in tokens")
    packing: bool = Field(True, description="several samples in a row, isolated by position ids")
    loss_on: Literal["all_turns", "last_turn"] = Field(
        "all_turns", description="which assistant turns are supervised"
    )
    thinking: bool = Field(False, description="Qwen3's think mode, the same in training and use")
    learning_rate: float = Field(1e-5, gt=0, description="peak of the schedule")
    min_learning_rate_ratio: float = Field(
        0.1, ge=0, le=1, description="floor of the cosine / peak"
    )
    warmup_ratio: float = Field(
        0.03, ge=0, lt=1, description="share of the steps with linear warm-up"
    )
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay")
    betas: tuple[float, float] = Field((0.9, 0.95), description="Adam's moment decays")
    eps: float = Field(1e-8, gt=0, description="Adam's epsilon")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this global norm")
    dtype: Literal["bf16", "fp32"] = Field(
        "bf16", description="precision of weights and activations"
    )
    attention: Literal["auto", "sdpa", "flash_attention_2", "varlen"] = Field(
        "auto", description="attention backend; packed rows take only one that isolates samples"
    )
    activation_checkpointing: Literal["none", "selective", "full"] = Field(
        "none", description="which layers recompute their activations in the backward pass"
    )
    compile: bool = Field(False, description="torch.compile each decoder layer")
    liger: bool = Field(False, description="Liger's RMSNorm, RoPE and SwiGLU kernels (GPU)")
    loss_chunk_tokens: int = Field(
        1024, ge=0, description="tokens whose logits exist at once; 0 computes them all"
    )
    optimizer: Literal["adamw", "adamw_8bit", "adamw_bf16"] = Field(
        "adamw", description="AdamW with fp32, 8-bit or bf16 states"
    )
    offload_optimizer: bool = Field(
        False, description="optimizer states in host memory (ZeRO-Offload)"
    )
    checkpoint_every_steps: int = Field(39, ge=1, description="optimizer steps between checkpoints")
    keep_last: int = execution(2, "newest checkpoints to keep beside the best one", ge=1)
    async_save: bool = execution(
        False, "write checkpoints in the background, from a copy in host memory"
    )
    validate_every_steps: int = Field(39, ge=1, description="optimizer steps between validations")
    num_processes: int = execution(8, "ranks that `toolgenesis-sft train` starts", ge=1)
    accelerate_config: str = execution(
        "launch/accelerate_zero3.yaml", "accelerate configuration that `train` launches with"
    )
    timeout_s: int = execution(600, "seconds a collective may hang before the run ends", ge=10)
    wandb: Literal["off", "offline", "online"] = execution(
        "off", "where metrics go besides metrics.jsonl"
    )
    wandb_project: str = execution("toolgenesis-sft", "wandb project")


class Generate(Section):
    engine: Literal["transformers", "vllm", "endpoint"] = Field(
        "vllm", description="what serves the model: started by us, or an endpoint that is there"
    )
    engine_python: str | None = execution(
        None, "interpreter of the engine's own environment (vllm); default: this one"
    )
    endpoint_url: str | None = Field(None, description="base URL of an OpenAI-compatible server")
    endpoint_model: str | None = Field(None, description="the model's name at the endpoint")
    api_key_variable: str | None = Field(
        None, description="name of the environment variable that holds the endpoint's key"
    )
    model: str | None = Field(
        None, description="a folder or hub name to ask instead of the run's own export"
    )
    strategies: tuple[Strategy, ...] = Field(("direct",), description="how servers are asked for")
    scenarios: Literal["train", "held_out", "train_and_held_out", "all"] = Field(
        "all", description="which scenarios; `train` means those the model was trained on"
    )
    compare_before_training: bool = Field(
        True, description="also ask the model as it was before training"
    )
    max_tokens: int = Field(4096, ge=1, description="new tokens of one completion")
    temperature: float = Field(0.2, ge=0, description="0 is greedy")
    num_samples: int = Field(1, ge=1, description="samples of one scenario")
    seed: int = Field(0, ge=0, description="sample i of a scenario is asked for with seed + i")
    stated_confidence: bool = Field(
        False,
        description="ask, after each new answer, how likely it is that the server works: one more"
        " completion, counted with the others",
    )
    max_turns: int = Field(6, ge=1, description="coder_agent: write-run-repair turns")
    max_agent_tokens: int = Field(
        32_768, ge=1, description="coder_agent: new tokens of one scenario, all turns together"
    )
    max_agent_s: float = Field(
        1800.0, gt=0, description="coder_agent: seconds after which no further turn begins"
    )
    concurrency: int = execution(
        16, "requests in flight: about 6 a processor for transformers, 100 and more for vllm", ge=1
    )
    request_timeout_s: float = execution(600.0, "seconds one completion may take", gt=0)
    port: int | None = execution(
        None, "port of the started server; default: a free one", ge=1, le=65535
    )
    tensor_parallel: int = execution(1, "GPUs the vllm engine spreads one model over", ge=1)
    memory_share: float | None = execution(
        None, "share of the device's memory that vllm may take; default: its own", gt=0, le=1
    )
    max_model_len: int | None = execution(None, "longest prompt plus answer in tokens", ge=128)


class Score(Section):
    profile: Literal["strict", "tg-compat"] = Field("strict", description="which definitions")
    layers: tuple[Literal["L1", "L2", "L3", "L4"], ...] = Field(
        ("L1", "L2", "L3", "L4"), description="layers to score; L1 is always needed"
    )
    launch_attempts: int = Field(3, ge=1, description="starts of a server that L1 counts")
    call_timeout_s: float = Field(30.0, gt=0, description="seconds one tool call may take")
    memory_mib: int = Field(1024, ge=128, description="memory of one server")
    workers: int = execution(
        2,
        "servers run at once, by score and build; on Ray by generate's coder agents too, which on"
        " this machine take all its processors",
        ge=1,
    )
    executor: Literal["local", "ray"] = execution(
        "local",
        "where servers run that are scored, verified by build or tried by coder agents: on this"
        " machine, or on a Ray cluster",
    )
    ray_address: str | None = execution(
        None,
        "host:port of the Ray cluster; default: RAY_ADDRESS, and without one a Ray on this machine",
    )
    shard: str | None = execution(
        None,
        "K/N: score each N-th server from the K-th on, as one task of an array; a run without it"
        " puts the shards together",
        pattern=r"^[1-9]\d*/[1-9]\d*$",
    )
    server_python: str | None = execution(
        None, "interpreter of the servers' environment; default: .venv-server beside the checkout"
    )
    judge_url: str | None = Field(
        None, description="endpoint of the LLM judge; none: no judged column"
    )
    judge_model: str | None = Field(None, description="the judge's name at its endpoint")
    judge_key_variable: str | None = Field(
        None, description="name of the environment variable that holds the judge's key"
    )
    utility: Literal["replay", "agent"] = Field(
        "replay",
        description="L4: reference plans replayed, or a solver with tools whose work a judge rates",
    )
    solver_url: str | None = Field(
        None, description="endpoint of the solver; none: the judge's, model and key included"
    )
    solver_model: str | None = Field(None, description="the solver's name at its endpoint")
    solver_key_variable: str | None = Field(
        None, description="name of the environment variable that holds the solver's key"
    )
    oracle: str | None = Field(
        None,
        description="servers that an agent's success is measured against: a folder of <slug>.py,"
        " predictions, or the name of a run",
    )

    @model_validator(mode="after")
    def shard_is_one_of_them(self) -> Self:
        if self.shard is not None:
            number, count = map(int, self.shard.split("/"))
            if number > count:
                raise broken_rule(self, f"there is no shard {number} of {count}", "shard")
        return self

    @model_validator(mode="after")
    def endpoints_are_whole(self) -> Self:
        for name in ("judge", "solver"):
            url, model = getattr(self, f"{name}_url"), getattr(self, f"{name}_model")
            if (url is None) != (model is None):
                rule = f"score.{name}_url and score.{name}_model go together"
                raise broken_rule(self, rule, f"{name}_url", f"{name}_model")
        if self.utility == "agent" and (self.judge_url is None or self.oracle is None):
            rule = "score.utility=agent needs score.judge_url and score.oracle"
            raise broken_rule(self, rule, "judge_url", "oracle")
        return self


class Report(Section):
    bootstrap_resamples: int = Field(2000, ge=100, description="resamples of the 95 % intervals")
    published_scores: str = Field(
        "eval/published_scores.yaml", description="rows of the model card and the leaderboard"
    )


class Recipe(Section):
    """One run, whole."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="default name of the run"
    )
    seed: int = Field(0, ge=0, description="of weights, order and splits")
    benchmark: str = Field("data/mini/benchmark.json", description="benchmark file, v3 layout")
    model: Model
    data: Data = Data()
    train: Train = Train()
    generate: Generate = Generate()
    score: Score = Score()
    report: Report = Report()

    @model_validator(mode="after")
    def rules(self) -> Self:
        train = self.train
        if train.batch_unit == "tokens" and train.global_batch_size < train.max_row_tokens:
            rule = "train.global_batch_size in tokens must hold a row (train.max_row_tokens)"
            raise broken_rule(self, rule, "train.global_batch_size", "train.max_row_tokens")
        if self.data.max_tokens > train.max_row_tokens:
            rule = "data.max_tokens must not exceed train.max_row_tokens: a sample is never cut"
            raise broken_rule(self, rule, "data.max_tokens", "train.max_row_tokens")
        if train.max_row_tokens > self.model.max_position_embeddings:
            rule = "train.max_row_tokens must not exceed model.max_position_embeddings"
            raise broken_rule(self, rule, "train.max_row_tokens", "model.max_position_embeddings")
        if self.generate.engine == "endpoint" and not self.generate.endpoint_url:
            rule = "generate.engine=endpoint needs generate.endpoint_url"
            raise broken_rule(self, rule, "generate.endpoint_url")
        return self


def load_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe and apply `section.key=value` overrides (values are YAML)."""
    tree = _read_tree(resolve_path(str(path)))
    for override in overrides:
        _override(tree, override)
    check_keys("recipe", tree, Recipe)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        next_step = f"mend it in {path.name} or on the command line"
        raise first_error(error, "", next_step) from error


def _read_tree(path: Path) -> dict[str, Any]:
    """A recipe's keys. With `base: other.yaml` (beside it) it states only what differs from that
    recipe, which has no base itself."""
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise UserError(
            "recipe", str(path), "must be a YAML mapping", "start from recipes/tiny_cpu.yaml"
        )
    if "base" not in tree:
        return tree
    base = read_yaml(path.parent / str(tree.pop("base")))
    if not isinstance(base, dict) or "base" in base:
        raise UserError(
            "base", str(path), "must name a whole recipe", "name one that has no base itself"
        )
    return _merged(base, tree)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            value = _merged(below, value)
        merged[key] = value
    return merged


def resolve_path(text: str) -> Path:
    """A path of a recipe: relative ones count from the working folder, then from where the
    repository's files lie: the checkout, or the installed package's `share`."""
    path = Path(text).expanduser()
    if path.is_absolute() or path.exists():
        return path
    package = Path(__file__).resolve().parent
    share = package / "share"
    shipped = (share if share.is_dir() else package.parent) / path
    return shipped if shipped.exists() else path


def server_python(recipe_value: str | None) -> Path:
    """The interpreter that generated servers run with."""
    text = recipe_value or os.environ.get("TOOLGENESIS_SERVER_PYTHON") or ".venv-server/bin/python"
    path = resolve_path(text)
    if not path.exists():
        raise UserError(
            "score.server_python",
            text,
            "is no interpreter",
            "run `make setup`, or make one: python3 -m venv .venv-server && .venv-server/bin/pip"
            f" install -r {resolve_path('eval/server_runtime.txt')}; a different place is named"
            " here or in TOOLGENESIS_SERVER_PYTHON",
        )
    return path.absolute()


def _override(tree: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals:
        raise UserError(
            "override", override, "must be section.key=value", "write for example train.epochs=1"
        )
    *parents, last = dotted.split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise UserError(
                "override", override, f"{parent} is not a section", "check the dotted name"
            )
        node = child
    try:
        node[last] = parse_yaml(text)
    except yaml.YAMLError as error:
        raise UserError("override", override, "the value is not YAML", "quote it") from error
