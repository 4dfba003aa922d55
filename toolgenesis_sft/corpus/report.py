"""The data report, before any GPU time: data_report.json, data_report.html and a data card."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from numpy.typing import NDArray

from toolgenesis_sft.config import Recipe
from toolgenesis_sft.corpus.breakages import CATALOGUE
from toolgenesis_sft.corpus.drops import Drops
from toolgenesis_sft.corpus.filters import private_findings
from toolgenesis_sft.corpus.servers import Server
from toolgenesis_sft.corpus.sources import NOT_STATED, Source
from toolgenesis_sft.corpus.table import Table
from toolgenesis_sft.records import ChatSample, Json
from toolgenesis_sft.reporting import page
from toolgenesis_sft.runs import write_json, write_text
from toolgenesis_sft.training.chat import spans
from toolgenesis_sft.training.packing import Order, OrderSettings

TEMPLATES = Path(__file__).with_name("templates")
STYLE = page.TEMPLATES / "report.css"
NUM_BINS = 24
MAX_OVERLAPS_SHOWN = 200
UNSHOWN = "not shown: it holds a secret or personal data"
KIND_TITLES = {
    "server": "scenario to server",
    "schema": "scenario to tool schema",
    "schema_to_server": "scenario and schema to server",
    "agent": "scenario and schema to server and trial calls",
    "repair": "broken server to mended server",
    "trajectory": "tool-use trajectory",
}


@dataclass(frozen=True)
class Part:
    """What one source gives of one kind. Lengths in tokens."""

    source: str
    kind: str
    num_train: int
    num_val: int
    num_tokens: int
    mean_tokens: float
    max_tokens: int
    supervised_share: float


def summarise(
    recipe: Recipe,
    table: Table,
    validates: NDArray[np.bool_],
    servers: Sequence[Server],
    sources: Sequence[Source],
    drops: Drops,
    overlaps: Sequence[tuple[str, str, str]],
    num_held_out: int,
) -> dict[str, Json]:
    """data_report.json: the same set gives the same bytes."""
    trains = table.kept & ~validates
    lengths = table.num_tokens[table.kept]
    train_lengths = table.num_tokens[trains]
    order = Order(
        train_lengths,
        table.num_supervised[trains],
        OrderSettings.of(recipe),
        recipe.train.num_processes,
    )
    domains: dict[str, Counter[str]] = defaultdict(Counter)
    split_of = {
        scenario: "val" if validates[row] else "train"
        for row, scenario in enumerate(table.scenarios)
        if scenario is not None and table.kept[row]
    }
    for slug, label in {s.pair.slug: s.pair.primary_label for s in servers}.items():
        if slug in split_of:
            domains[label or "not stated"][split_of[slug]] += 1
    licences = {source.label: source.entry.licence for source in sources}
    if recipe.data.teacher is not None:
        licences["teacher"] = recipe.data.teacher.licence
    by_source = table.counts(table.sources)
    left_out = {table.ids[row] for row in np.flatnonzero(~table.kept)}
    overlaps = [overlap for overlap in overlaps if overlap[0] not in left_out]
    return {
        "num_train": int(trains.sum()),
        "num_val": int((table.kept & validates).sum()),
        "num_tokens": int(lengths.sum()),
        "supervised_share": _share(table.num_supervised[table.kept], lengths),
        "parts": [asdict(part) for part in _parts(table, validates)],
        "lengths": {
            "mean": round(float(lengths.mean()), 1),
            "quantiles": {
                name: int(np.quantile(lengths, share, method="higher"))
                for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
            },
            "histogram": _histogram(lengths),
            "limit": recipe.data.max_tokens,
        },
        "stop_tokens": {"num_samples": len(lengths), "num_that_end_their_turn": len(lengths)},
        "steps": {
            "global_batch_size": recipe.train.global_batch_size,
            "batch_unit": recipe.train.batch_unit,
            "epochs": recipe.train.epochs,
            "per_epoch": order.num_steps_per_epoch,
            "total": order.num_steps,
        },
        "num_idle_servers": len(
            {(server.pair.source, server.pair.slug) for server in servers}
            - set(zip(table.sources, map(str, table.scenarios), strict=True))
        ),
        "num_dropped": drops.total,
        "drops": [_without_secrets(drop) for drop in drops.to_json()],
        "overlap": {
            "policy": recipe.data.overlap,
            "num_held_out": num_held_out,
            "num_left_out": sum(
                count for reason, count in drops.counts.items() if reason.startswith("overlap: ")
            ),
            "num_samples": len(overlaps),
            "held_out": sorted({slug for _, slug, _ in overlaps}),
            "samples": [
                {"sample": sample, "held_out": slug, "what": what}
                for sample, slug, what in overlaps[:MAX_OVERLAPS_SHOWN]
            ],
        },
        "domains": {
            label: dict(sorted(counts.items())) for label, counts in sorted(domains.items())
        },
        "scenarios": {
            split: sorted(slug for slug, where in split_of.items() if where == split)
            for split in ("train", "val")
        },
        "licences": dict(
            sorted(
                Counter(
                    licences[source]
                    for source, kept in zip(table.sources, table.kept, strict=True)
                    if kept
                ).items()
            )
        ),
        "samples_by_source": {name: by_source[name] for name in [*licences]},
        "sources": [source.facts() for source in sources],
    }


def examples(recipe: Recipe, table: Table) -> list[dict[str, Json]]:
    """The first kept sample of each kind, in the pieces that the loss sees and does not see."""
    shown: dict[str, dict[str, Json]] = {}
    kinds = {kind for kind, kept in zip(table.kinds, table.kept, strict=True) if kept}
    for row, line in table.lines():
        kind = table.kinds[row]
        if kind not in shown:
            sample = ChatSample.from_line(line)
            pieces = spans(sample, recipe.train.loss_on, recipe.train.thinking)
            shown[kind] = {"id": sample.id, "kind": kind, "pieces": [p._asdict() for p in pieces]}
        if len(shown) == len(kinds):
            break
    return [shown[kind] for kind in sorted(shown)]


def write(
    recipe: Recipe, folder: Path, report: dict[str, Json], samples: list[dict[str, Json]]
) -> None:
    """data_report.json, data_report.html and README.md (the data card) into the data folder."""
    context = {
        "name": recipe.name,
        "report": report,
        "samples": samples,
        "kinds": KIND_TITLES,
        "catalogue": CATALOGUE,
        "not_stated": NOT_STATED,
        "style": Markup(STYLE.read_text(encoding="utf-8")),
    }
    environment = _environment()
    for template, name in (
        ("data_report.html.jinja", "data_report.html"),
        ("data_card.md.jinja", "README.md"),
    ):
        write_text(folder / name, environment.get_template(template).render(context))
    write_json(folder / "data_report.json", report)


def _parts(table: Table, validates: NDArray[np.bool_]) -> list[Part]:
    rows: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in np.flatnonzero(table.kept):
        rows[table.sources[row], table.kinds[row]].append(int(row))
    parts = []
    for (source, kind), members in sorted(rows.items()):
        lengths = table.num_tokens[members]
        num_val = int(validates[members].sum())
        parts.append(
            Part(
                source=source,
                kind=kind,
                num_train=len(members) - num_val,
                num_val=num_val,
                num_tokens=int(lengths.sum()),
                mean_tokens=round(float(lengths.mean()), 1),
                max_tokens=int(lengths.max()),
                supervised_share=_share(table.num_supervised[members], lengths),
            )
        )
    return parts


def _without_secrets(drop: Json) -> Json:
    """A row that is broken was dropped before anybody looked for secrets in it."""
    shown = [
        {"what": each["what"], "detail": UNSHOWN if _is_private(each["detail"]) else each["detail"]}
        for each in drop["examples"]
    ]
    return drop | {"examples": shown}


def _is_private(text: str) -> bool:
    return next(private_findings(text), None) is not None


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> float:
    return round(float(part.sum()) / max(1, int(whole.sum())), 4)


def _histogram(lengths: NDArray[np.int64]) -> list[dict[str, int]]:
    """Equal bins from 0 to the longest: [{upto, count}]."""
    edges = np.linspace(0, max(1, int(lengths.max())), NUM_BINS + 1)
    counts, _ = np.histogram(lengths, edges)
    return [
        {"upto": int(edge), "count": int(count)}
        for edge, count in zip(edges[1:], counts, strict=True)
    ]


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(("html.jinja",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["grouped"] = lambda number: f"{number:,}"
    environment.filters["percent"] = lambda share: f"{share:.1%}"
    environment.filters["cell"] = lambda text: " ".join(str(text).split()).replace("|", "\\|")
    return environment
