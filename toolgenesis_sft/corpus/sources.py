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

from toolgenesis_sft.config import Recipe, resolve_path
from toolgenesis_sft.corpus.calls import without_nulls
from toolgenesis_sft.corpus.drops import Unfit
from toolgenesis_sft.corpus.pairs import CODE_COLUMNS
from toolgenesis_sft.corpus.text_files import file_rows, is_list
from toolgenesis_sft.corpus.trajectories import detect
from toolgenesis_sft.corpus.transcripts import COLUMNS
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.predictions import read_predictions
from toolgenesis_sft.records import Json
from toolgenesis_sft.runs import sha256_file
from toolgenesis_sft.sections import Section, checked
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
ROWS_TO_LOOK_AT = 20  # for the first one that is JSON: its columns tell the layout
ROWS_PER_CHUNK = 512  # work for a quarter of a second, small enough for memory to stay flat
# Where it stands (line, item or row number), and what it holds: JSON text, or a table's row.
Row = tuple[str, "bytes | dict[str, Json]"]


class SourceEntry(Section):
    """One source as data/sources.yaml declares it."""

    layout: SourceLayout = Field(description="how to read it")
    path: str | None = Field(None, description="file (.jsonl, .json, .parquet; .gz too) or folder")
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
    """The rows of a file or a hub data set, one by one. Raises UserError where there is none, or
    where the file breaks off."""
    if source.entry.hub:
        dataset = _hub_dataset(source.entry)
        found: Iterator[Row] = ((f"row {n}", row) for n, row in enumerate(dataset, start=1))
    elif source.path.suffix == ".parquet":
        found = _parquet_rows(source.path)
    else:
        found = file_rows(source.path)
    first = next(found, None)
    if first is None:
        raise UserError(f"source {source.name}", str(source.path), "holds no row", "take it out")
    yield first
    yield from found


def chunks(source: Source) -> Iterator[list[Row]]:
    """Rows by the chunk. The bounds do not depend on who works on them."""
    stream = rows(source)
    while chunk := list(islice(stream, ROWS_PER_CHUNK)):
        yield chunk


def decoded(row: bytes | dict[str, Json]) -> dict[str, Json]:
    """A row as an object. Raises Unfit where its line is no JSON object.

    The rows of a table have all keys of the other rows, with null for what is not theirs.
    """
    if isinstance(row, dict):
        full: dict[str, Json] = without_nulls(row)
        return full
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
    is_registry = path.suffix == ".json" and not is_list(path)
    holds_servers = path.is_dir() or is_registry
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
    fault = ""
    for _, row in islice(rows(probe), ROWS_TO_LOOK_AT):
        try:
            columns = decoded(row)
        except Unfit as unfit:
            fault = fault or unfit.detail
            continue
        layout = detect(columns)
        if layout:
            return layout
        if set(columns) >= COLUMNS:
            return "transcripts"
        if set(CODE_COLUMNS) & set(columns):
            return "pairs"
        raise _no_layout(path, f"columns {sorted(columns)}")
    raise _no_layout(path, fault)


def _no_layout(path: Path, detail: str) -> UserError:
    return UserError(
        "data.sources",
        str(path),
        f"its first rows are in no known layout ({detail})",
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
        if path.is_dir() and entry.layout not in ("benchmark", "servers"):
            raise UserError(
                f"source {name}",
                str(path),
                f"is a folder, and the layout {entry.layout} is read from one file",
                "name the file; declare each file of several as a source of its own",
            )
        stem = Path(path.name.removesuffix(".gz")).stem
        label = path.parent.name if entry.layout == "benchmark" else stem
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
    """SHA-256 of a file, or over names and digests of a folder's files; servers are added, and so
    are the programs that a registry names, wherever they lie."""
    parts = digests_of(path, entry.layout == "servers")
    if entry.servers:
        parts += digests_of(resolve_path(entry.servers), True)
    if len(parts) == 1:
        return parts[0][1]
    return hashlib.sha256("".join(f"{name}:{part}\n" for name, part in parts).encode()).hexdigest()


def digests_of(path: Path, holds_servers: bool) -> list[tuple[str, str]]:
    """(name, SHA-256) of each file; empty where nothing is there."""
    if path.is_dir():
        return [
            (str(file.relative_to(path)), sha256_file(file))
            for file in sorted(path.rglob("*"))
            if file.is_file() and "__pycache__" not in file.parts
        ]
    parts = [(path.name, sha256_file(path))] if path.exists() else []
    if parts and holds_servers:
        parts += [
            (server.slug, hashlib.sha256(server.completion.encode()).hexdigest())
            for server in read_predictions(path)
        ]
    return parts


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
