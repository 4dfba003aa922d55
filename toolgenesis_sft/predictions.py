"""Predictions in any layout people have them in, and the reference harness's registry.json.

Read: JSON lines of ours (`predictions.jsonl`), a `registry.json` with `<slug>/env_code.py` and
`<slug>/tool_schema.json` beside it, a folder of such folders, or a folder of `<slug>.py`. Foreign
files become predictions of the strategy `imported`, whose completion is the file itself.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from toolgenesis_sft.errors import UserError
from toolgenesis_sft.prompts import decoded, parse_prediction, schema_tools
from toolgenesis_sft.records import Json, ServerPrediction
from toolgenesis_sft.runs import RunFolder, read_json, write_json, write_text

IMPORTED = "imported"
REGISTRY, CODE, SCHEMA = "registry.json", "env_code.py", "tool_schema.json"


def read_predictions(path: Path) -> Iterator[ServerPrediction]:
    """One prediction after the other, in the file's order or by slug. Raises UserError where the
    path is in no known layout. A server that a registry names without code counts as empty."""
    if path.is_dir():
        yield from _read_folder(path)
    elif not path.exists():
        raise _unknown(path, "is not there")
    elif path.name == REGISTRY:
        yield from _read_registry(path)
    elif path.suffix == ".jsonl":
        yield from _read_lines(path)
    elif path.suffix == ".json":
        yield from _read_registry(path)
    else:
        raise _unknown(path, "is in no known layout")


def write_registry(predictions: Iterable[ServerPrediction], folder: Path) -> None:
    """Write predictions as the reference harness reads them; registry.json comes last.

    The layout has one entry a slug: give one model, one strategy and one sample. Raises UserError
    where a slug comes twice.
    """
    registry: dict[str, Json] = {}
    for prediction in predictions:
        slug = prediction.slug
        if slug in registry:
            raise UserError(
                "predictions",
                slug,
                "comes twice, and registry.json has one entry a server",
                "choose one model, one strategy and one sample",
            )
        parsed = parse_prediction(prediction)
        write_text(folder / slug / CODE, parsed.code or "")
        tools = schema_tools(parsed.schema)
        if tools:
            write_json(
                folder / slug / SCHEMA,
                {
                    "server_name": slug,
                    "tools": [
                        {
                            "name": tool.name,
                            "description": tool.description,
                            "inputSchema": tool.input_schema,
                        }
                        for tool in tools
                    ],
                },
            )
        registry[slug] = {
            "server_id": None,
            "server_name": slug,
            "server_slug": slug,
            "json_schema_path": f"{slug}/{SCHEMA}" if tools else "",
            "env_code_path": f"{slug}/{CODE}",
            "strategy": prediction.strategy,
        }
    write_json(folder / REGISTRY, registry)


def _read_folder(folder: Path) -> Iterator[ServerPrediction]:
    if (folder / "predictions.jsonl").exists():
        yield from _read_lines(folder / "predictions.jsonl")
        return
    if (folder / REGISTRY).exists():
        yield from _read_registry(folder / REGISTRY)
        return
    found = False
    for entry in sorted(folder.iterdir()):
        if entry.is_file() and entry.suffix == ".py":
            found = True
            yield _imported(entry.stem, entry, None)
        elif (entry / CODE).is_file():
            found = True
            yield _imported(entry.name, entry / CODE, entry / SCHEMA)
    if not found and any(folder.iterdir()):
        raise _unknown(folder, "holds no predictions")


def _read_lines(path: Path) -> Iterator[ServerPrediction]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            text = line.removeprefix(BOM_UTF8) if number == 1 else line
            if not text.strip():
                continue
            try:
                yield ServerPrediction.from_line(text)
            except ValidationError as error:
                is_json = decoded(text.decode(errors="replace")) is not None
                if not line.endswith(b"\n") and not is_json and _is_of_a_run(path):
                    return  # a torn last line: its prediction was never finished
                first = error.errors()[0]
                where = ".".join(str(part) for part in first["loc"])
                raise UserError(
                    f"{path.name}: line {number}",
                    where,
                    first["msg"],
                    "mend or remove the line",
                ) from error


def _is_of_a_run(path: Path) -> bool:
    """Whether `generate` appends to this file. What a person gives ends with a whole line."""
    run = RunFolder(path.parent)
    if path.name != run.predictions.name or not run.provenance.exists():
        return False
    return "generate" in read_json(run.provenance)


def _read_registry(path: Path) -> Iterator[ServerPrediction]:
    registry = read_json(path)
    if not isinstance(registry, dict):
        raise UserError(
            str(path), registry, "must be a JSON object by slug", "write {slug: {env_code_path}}"
        )
    for slug, entry in sorted(registry.items()):
        if not isinstance(entry, dict):
            raise UserError(
                f"{path.name}: {slug}", entry, "must be a JSON object", "mend or remove the entry"
            )
        yield _imported(
            slug,
            _beside(path.parent, entry.get("env_code_path"), slug, CODE),
            _beside(path.parent, entry.get("json_schema_path"), slug, SCHEMA),
        )


def _beside(folder: Path, named: Any, slug: str, default: str) -> Path:
    """A file that a registry names: from the working folder, from the registry's folder, or where
    the layout has it (registries are moved, and hold the paths of where they were written)."""
    if isinstance(named, str) and named:
        for candidate in (Path(named), folder / named):
            if candidate.is_file():
                return candidate
    return folder / slug / default


def _imported(slug: str, code: Path, schema: Path | None) -> ServerPrediction:
    return ServerPrediction(
        slug=slug,
        model=IMPORTED,
        strategy=IMPORTED,
        completion=_text(code),
        schema_completion=_text(schema) or None if schema is not None else None,
        finish_reason="stop",
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig", errors="replace") if path.is_file() else ""


def _unknown(path: Path, rule: str) -> UserError:
    return UserError(
        "predictions",
        str(path),
        rule,
        "give predictions.jsonl, registry.json, or a folder of <slug>.py",
    )
