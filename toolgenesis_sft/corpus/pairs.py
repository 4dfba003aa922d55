"""Pairs of scenario and server, from wherever they lie. Nothing here is verified yet."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from toolgenesis_sft.benchmark import Benchmark
from toolgenesis_sft.corpus.drops import Unfit
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.predictions import read_predictions
from toolgenesis_sft.prompts import TrialCall, parse_prediction
from toolgenesis_sft.records import Json, Scenario, ServerClass, ServerPrediction
from toolgenesis_sft.sections import Section, checked
from toolgenesis_sft.yaml_text import read_yaml

PROMPT_COLUMNS = ("prompt", "scenario", "agent_input_prompt")
BYTE_ORDER_MARK = "\ufeff"  # of files, no part of a program
CODE_COLUMNS = ("code", "env_code", "server_code")


class Example(Section):
    """A call that a server claims to answer; `answer` is compared where it is given."""

    tool: str
    arguments: dict[str, Json] = Field(default_factory=dict)
    answer: Json = None


class ServerFacts(Section):
    """<slug>.yaml beside <slug>.py: what is known of a server, all of it optional."""

    prompt: str | None = None
    primary_label: str = ""
    secondary_labels: tuple[str, ...] = ()
    server_class: ServerClass = "stateless"
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Pair:
    """A server and the scenario that it claims to answer.

    prompt: None where the scenario is to be written from the live tools.
    in_benchmark: the recipe's benchmark has unit tests for it.
    variant: tells several servers of one scenario apart.
    faults, calls: of a coder agent's server, the broken programs before it and the trial calls.
    """

    slug: str
    code: str
    source: str
    licence: str
    prompt: str | None = None
    primary_label: str = ""
    secondary_labels: tuple[str, ...] = ()
    server_class: ServerClass = "stateless"
    examples: tuple[Example, ...] = ()
    in_benchmark: bool = False
    variant: str = ""
    faults: tuple[str, ...] = ()
    calls: tuple[TrialCall, ...] = ()

    @property
    def id(self) -> str:
        return "/".join(part for part in (self.source, self.slug, self.variant) if part)

    def scenario(self) -> Scenario:
        assert self.prompt is not None, "the scenario is written once the server has run"
        return Scenario(
            slug=self.slug,
            prompt=self.prompt,
            primary_label=self.primary_label,
            secondary_labels=self.secondary_labels,
            server_class=self.server_class,
            digest=hashlib.sha256(self.prompt.encode()).hexdigest(),
        )


def of_scenario(
    scenario: Scenario,
    code: str,
    source: str,
    licence: str,
    variant: str = "",
    faults: tuple[str, ...] = (),
    calls: tuple[TrialCall, ...] = (),
) -> Pair:
    """A server for a training scenario of the recipe's benchmark."""
    return Pair(
        slug=scenario.slug,
        code=code,
        source=source,
        licence=licence,
        prompt=scenario.prompt,
        primary_label=scenario.primary_label,
        secondary_labels=scenario.secondary_labels,
        server_class=scenario.server_class,
        in_benchmark=True,
        variant=variant,
        faults=faults,
        calls=calls,
    )


def training_scenarios(benchmark: Benchmark) -> tuple[Scenario, ...]:
    """Raises UserError where the benchmark holds everything out."""
    if not benchmark.train:
        raise UserError(
            "benchmark",
            str(benchmark.path),
            "has no training split, so there is nothing to train on",
            'write splits.json beside it: {"train": [slugs], "held_out": [slugs]}',
        )
    by_slug = {scenario.slug: scenario for scenario in benchmark.scenarios}
    return tuple(by_slug[slug] for slug in benchmark.train)


def benchmark_pairs(benchmark: Benchmark, folder: Path, source: str, licence: str) -> list[Pair]:
    """The train split with its reference servers, one <slug>.py each (or a registry.json)."""
    scenarios = training_scenarios(benchmark)
    codes = {prediction.slug: parse_prediction(prediction).code for prediction in _read(folder)}
    for scenario in scenarios:
        if not codes.get(scenario.slug):
            raise UserError(
                "data.servers",
                str(folder / f"{scenario.slug}.py"),
                f"the training scenario {scenario.slug} has no server",
                "add the file, or take the slug out of splits.json",
            )
    return [of_scenario(s, codes[s.slug] or "", source, licence) for s in scenarios]


def folder_pairs(folder: Path, source: str, licence: str) -> Iterator[Pair]:
    """A folder of <slug>.py with optional <slug>.yaml, or any layout that predictions have."""
    for prediction in _read(folder):
        beside = folder / f"{prediction.slug}.yaml"
        facts = (
            checked(ServerFacts, read_yaml(beside) or {}, f"{beside.name}: ")
            if beside.exists()
            else ServerFacts()
        )
        yield Pair(
            slug=prediction.slug,
            code=(parse_prediction(prediction).code or "").removeprefix(BYTE_ORDER_MARK),
            source=source,
            licence=licence,
            prompt=stated(facts.prompt),
            primary_label=facts.primary_label,
            secondary_labels=facts.secondary_labels,
            server_class=facts.server_class,
            examples=facts.examples,
        )


def row_pair(row: Json, where: str, source: str, licence: str) -> Pair:
    """A row with a column for the code, and optionally prompt, slug, label and examples.

    where: the row's number, which names its scenario, with the source's label, where it has no
    slug: the first rows of two files are two scenarios. Raises Unfit where the row is none.
    """
    if not isinstance(row, dict):
        raise Unfit("row is no JSON object", repr(row))
    code = next((row[name] for name in CODE_COLUMNS if name in row), None)
    prompt = next((row[name] for name in PROMPT_COLUMNS if name in row), None)
    if not isinstance(code, str):
        raise Unfit("a column of the layout is missing", f"pairs need one of {CODE_COLUMNS}")
    try:
        facts = ServerFacts(
            prompt=prompt,
            primary_label=row.get("primary_label") or row.get("label") or "",
            examples=row.get("examples") or (),
        )
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Unfit("row is not in its layout", f"{place}: {first['msg']}") from error
    return Pair(
        slug=str(row.get("slug") or row.get("server_slug") or f"{source}-{where}"),
        code=code,
        source=source,
        licence=licence,
        prompt=stated(facts.prompt),
        primary_label=facts.primary_label,
        examples=facts.examples,
    )


def stated(prompt: str | None) -> str | None:
    """A prompt of spaces is none: the scenario is written from the live tools then."""
    return prompt if prompt and prompt.strip() else None


def shortest_first(pairs: Iterable[Pair]) -> list[str]:
    """The slugs of the scenarios, those with the shortest server first."""
    length: dict[str, int] = {}
    for pair in pairs:
        length[pair.slug] = min(length.get(pair.slug, len(pair.code)), len(pair.code))
    return sorted(length, key=lambda slug: (length[slug], slug))


def _read(folder: Path) -> list[ServerPrediction]:
    if not folder.exists():
        raise UserError(
            "data.servers", str(folder), "is no folder", "give the folder that holds <slug>.py"
        )
    return sorted(read_predictions(folder), key=lambda prediction: prediction.slug)
