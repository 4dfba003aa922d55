"""Where training data comes from: the catalogue, its digests, and rows read one after the other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import Field, model_validator

from toolgenesis_sft.config import Recipe, Section, checked, resolve_path
from toolgenesis_sft.corpus.drops import Unfit
from toolgenesis_sft.corpus.trajectories import detect
from toolgenesis_sft.corpus.transcripts import COLUMNS
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import Json
from toolgenesis_sft.runs import sha256_file
from toolgenesis_sft.yaml_text import read_yaml

SourceLayout = Literal[
    "benchmark",
    "servers",
    "pairs",
    "transcripts",
    "messages",
    "sharegpt",
    "alpaca",
    "glaive",
    "xlam",
    "hermes",
    "toucan",
]
NOT_STATED = "not stated"
ROWS_PER_CHUNK = 512  # work for a quarter of a second, small enough for memory to stay flat
Row = tuple[str, "bytes | dict[str, Json]"]  # where it stands (line or row number), what it holds


class SourceEntry(Section):
    """One source as data/sources.yaml declares it."""

    layout: SourceLayout = Field(description="how to read it")
    path: str | None = Field(None, description="file or folder: .jsonl, .parquet, .json, servers")
    hub: str | None = Field(None, description="a hub data set instead; the offline cache is enough")
    config: str | None = Field(None, description="configuration of the hub data set")
    split: str = Field("train", description="split of the hub data set")
    revision: str | None = Field(None, description="commit of the hub data set")
    servers: str | None = Field(None, description="layout benchmark: folder of <slug>.py")
    licence: str = Field(min_length=1, description="SPDX name, or the words of who gave it")
    digest: str | None = Field(None, description="SHA-256 that the source must have")
    weight: float | None = Field(None, gt=0, le=1, description="share of the samples it may give")

    @model_validator(mode="after")
    def exactly_one(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("set exactly one of path and hub")
        if self.hub and self.layout in ("benchmark", "servers", "transcripts"):
            raise ValueError(
                "a hub data set has rows: take the layout pairs or one of trajectories"
            )
        return self


@dataclass(frozen=True)
class Source:
    """A source that is there.

    name: as the recipe spells it. label: what its samples carry: its name in the catalogue, or
    the last part of its path. digest: SHA-256 of its bytes, or a hub data set's fingerprint.
    """

    name: str
    label: str
    entry: SourceEntry
    path: Path
    digest: str

    @property
    def has_servers(self) -> bool:
        return self.entry.layout in ("benchmark", "servers", "pairs", "transcripts")

    def facts(self) -> dict[str, Json]:
        return {
            "name": self.label,
            "layout": self.entry.layout,
            "licence": self.entry.licence,
            "digest": self.digest,
            "weight": self.entry.weight,
        }


def resolve_sources(recipe: Recipe) -> list[Source]:
    """The recipe's sources, in its order, but for `teacher`. Raises UserError where one is
    missing, unknown, or not what its digest says."""
    catalogue = read_catalogue(resolve_path(recipe.data.catalogue))
    names = [name for name in recipe.data.sources if name != "teacher"]
    if len(set(names)) != len(names):
        raise UserError("data.sources", names, "names a source twice", "name each one once")
    sources = [_source(name, _entry(name, recipe, catalogue), name in catalogue) for name in names]
    labels = [source.label for source in sources]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(
                "data.sources",
                label,
                "is the name of two sources",
                "declare one under another name",
            )
    return sources


def weights_of(recipe: Recipe, sources: list[Source]) -> dict[str, float]:
    """Share of the samples by label: the recipe's, else the catalogue's; empty where all samples
    are taken. Raises UserError where the catalogue's do not add up."""
    labels = {source.name: source.label for source in sources}
    if recipe.data.weights:
        return {labels.get(name, name): share for name, share in recipe.data.weights.items()}
    stated = {s.label: s.entry.weight for s in sources if s.entry.weight is not None}
    if not stated:
        return {}
    if len(stated) != len(recipe.data.sources) or abs(sum(stated.values()) - 1) > 0.005:
        raise UserError(
            "weight",
            str(stated),
            "the weights of the chosen sources must all be given and add up to 1",
            f"mend them in {recipe.data.catalogue}, or set data.weights",
        )
    return stated


def read_catalogue(path: Path) -> dict[str, SourceEntry]:
    if not path.exists():
        return {}
    tree = read_yaml(path) or {}
    if not isinstance(tree, dict) or not all(isinstance(value, dict) for value in tree.values()):
        raise UserError(str(path), "", "must map names to sources", "see data/sources.yaml")
    return {
        str(name): checked(SourceEntry, facts, f"{path.name}: {name}.")
        for name, facts in tree.items()
    }


def rows(source: Source) -> Iterator[Row]:
    """The rows of a file or a hub data set, one by one."""
    if source.entry.hub:
        for number, row in enumerate(_hub_dataset(source.entry), start=1):
            yield f"row {number}", row
    elif source.path.suffix == ".parquet":
        yield from _parquet_rows(source.path)
    else:
        with source.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"line {number}", line


def chunks(source: Source) -> Iterator[list[Row]]:
    """Rows by the chunk. The bounds do not depend on who works on them."""
    stream = rows(source)
    while chunk := list(islice(stream, ROWS_PER_CHUNK)):
        yield chunk


def decoded(row: bytes | dict[str, Json]) -> dict[str, Json]:
    """A row as an object. Raises Unfit where its line is no JSON object."""
    if isinstance(row, dict):
        return row
    try:
        value = json.loads(row)
    except (ValueError, RecursionError) as error:
        raise Unfit("broken JSON", str(error)) from error
    if not isinstance(value, dict):
        raise Unfit("row is no JSON object", repr(value))
    return value


def _entry(name: str, recipe: Recipe, catalogue: dict[str, SourceEntry]) -> SourceEntry:
    if name in catalogue:
        return catalogue[name]
    if name == "benchmark":
        return _benchmark_entry(recipe, catalogue)
    path = resolve_path(name)
    if not path.exists():
        raise UserError(
            "data.sources",
            name,
            f"is neither a path nor a name in {recipe.data.catalogue}",
            "declare it there, or give a folder of servers or a .jsonl or .parquet file",
        )
    holds_servers = path.is_dir() or path.suffix == ".json"  # a folder, or a registry.json
    if path.suffix == ".json" and path.read_bytes().lstrip().startswith(b"["):
        raise UserError(
            "data.sources",
            name,
            "is one JSON list, which cannot be read row by row",
            "write one row a line and call it .jsonl",
        )
    layout: SourceLayout = "servers" if holds_servers else _detected(path)
    return SourceEntry(layout=layout, path=str(path), licence=NOT_STATED)


def _benchmark_entry(recipe: Recipe, catalogue: dict[str, SourceEntry]) -> SourceEntry:
    """The recipe's benchmark; its licence is the one that the catalogue states for that file."""
    if recipe.data.servers is None:
        raise UserError(
            "data.servers", "", "is needed by the source `benchmark`", "name the folder of servers"
        )
    path = resolve_path(recipe.benchmark).resolve()
    licences = (
        entry.licence
        for entry in catalogue.values()
        if entry.path and resolve_path(entry.path).resolve() == path
    )
    return SourceEntry(
        layout="benchmark",
        path=recipe.benchmark,
        servers=recipe.data.servers,
        licence=next(licences, NOT_STATED),
    )


def _detected(path: Path) -> SourceLayout:
    entry = SourceEntry(layout="messages", path=str(path), licence=NOT_STATED)
    probe = Source(path.name, path.stem, entry, path, "")
    _, first = next(rows(probe), ("", None))
    if first is None:
        raise UserError("data.sources", str(path), "holds no row", "mend it, or take it out")
    try:
        row = decoded(first)
    except Unfit as fault:
        raise _no_layout(path, str(fault.detail)) from fault
    layout = detect(row)
    if layout:
        return layout
    if set(row) >= COLUMNS:
        return "transcripts"
    if {"code", "env_code", "server_code"} & set(row):
        return "pairs"
    raise _no_layout(path, f"columns {sorted(row)}")


def _no_layout(path: Path, detail: str) -> UserError:
    return UserError(
        "data.sources",
        str(path),
        f"its first row is in no known layout ({detail})",
        "declare it in data/sources.yaml with one of the layouts "
        + ", ".join(get_args(SourceLayout)),
    )


def _source(name: str, entry: SourceEntry, declared: bool) -> Source:
    if entry.hub:
        dataset = _hub_dataset(entry)
        source = Source(name, name, entry, Path(entry.hub), str(dataset._fingerprint))
    else:
        path = resolve_path(entry.path or "")
        if not path.exists():
            raise UserError(
                f"source {name}", str(path), "is not there", "mend its path, or take it out"
            )
        label = path.parent.name if entry.layout == "benchmark" else path.stem
        source = Source(name, name if declared else label, entry, path, _digest(path, entry))
    if entry.digest is not None and entry.digest != source.digest:
        raise UserError(
            f"source {name}: digest",
            source.digest,
            f"is not what the catalogue says ({entry.digest}): the source has changed",
            "look at the change, then state the new digest",
        )
    return source


def _digest(path: Path, entry: SourceEntry) -> str:
    """SHA-256 of a file, or over names and digests of a folder's files; servers are added."""
    files = [(path.name, path)] if path.is_file() else _files(path)
    if entry.servers:
        folder = resolve_path(entry.servers)
        files += _files(folder) if folder.is_dir() else []
    if len(files) == 1:
        return sha256_file(files[0][1])
    total = hashlib.sha256()
    for name, file in files:
        total.update(f"{name}:{sha256_file(file)}\n".encode())
    return total.hexdigest()


def _files(folder: Path) -> list[tuple[str, Path]]:
    return [
        (str(path.relative_to(folder)), path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(ROWS_PER_CHUNK):
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", row
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise UserError("source", str(path), f"is no parquet file ({error})", "mend it") from error


def _hub_dataset(entry: SourceEntry) -> Any:
    """The data set from the hub's cache; with a network it is downloaded there first."""
    import datasets

    try:
        return datasets.load_dataset(
            entry.hub, entry.config, split=entry.split, revision=entry.revision
        )
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            "source: hub",
            str(entry.hub),
            f"cannot be loaded ({str(error).splitlines()[0]})",
            "download it where there is a network, and set HF_HUB_OFFLINE=1 here",
        ) from error
