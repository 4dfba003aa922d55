"""A scenario for a server that came without one, written from its live tools.

It keeps to the benchmark's form: system scope, technical context, required capabilities; features
and key inputs, not tool names.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

from toolgenesis_sft.prompts import compiles
from toolgenesis_sft.records import Json, ToolSchema


def describe(slug: str, code: str, tools: Sequence[ToolSchema]) -> str:
    """The prompt of a scenario. The same server always gives the same text."""
    about = ast.get_docstring(ast.parse(code)) if compiles(code) else None
    named = any(word.isalpha() for word in _words(slug))  # a row without a slug has its number
    scope = about or (f"A system for {' '.join(_words(slug))}." if named else "See below.")
    features = [_feature(number, tool) for number, tool in enumerate(tools, start=1)]
    return "\n\n".join(
        [
            f"**System Scope:** {scope}",
            "**Technical Context:** Each capability answers one request of a client. What lies"
            " outside the stated inputs is refused with an error that says why.",
            "**Required Capabilities:**",
            *features,
        ]
    )


def _feature(number: int, tool: ToolSchema) -> str:
    first, _, rest = tool.description.strip().partition("\n")
    title = " ".join(word.capitalize() for word in _words(tool.name))
    inputs = [
        _argument(name, schema, name in (tool.input_schema.get("required") or ()))
        for name, schema in (tool.input_schema.get("properties") or {}).items()
    ]
    description = " ".join(f"{first} {rest}".split())
    return (
        f"{number}.  **Feature: {title}**\n"
        f"    *   Description: {description}\n"
        f"    *   Key Inputs: {', '.join(inputs) or 'none'}."
    )


def _argument(name: str, schema: Json, required: bool) -> str:
    words = " ".join(_words(name))
    kind = schema.get("type") if isinstance(schema, dict) else None
    notes = [str(kind)] if isinstance(kind, str) else []
    if not required:
        default = schema.get("default") if isinstance(schema, dict) else None
        notes.append("optional" if default is None else f"default {default}")
    return f"{words} ({', '.join(notes)})" if notes else words


def _words(name: str) -> list[str]:
    return name.replace("-", " ").replace("_", " ").split()
