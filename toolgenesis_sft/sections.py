"""Sections of typed YAML: what all files of settings have in common.

A section is frozen and knows all of its keys. What is wrong with one is a UserError of one line:
which fields, what they hold, the rule, the next step.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from operator import attrgetter
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from toolgenesis_sft.errors import UserError


def execution(default: Any, description: str, **rules: Any) -> Any:
    """A field that changes how a stage runs, never what it yields: it may differ on resume."""
    return Field(default, description=description, json_schema_extra={"execution": True}, **rules)


def is_execution(field: FieldInfo) -> bool:
    """Whether a section's field was declared with `execution`."""
    return isinstance(field.json_schema_extra, dict) and "execution" in field.json_schema_extra


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def broken_rule(section: Section, rule: str, *names: str) -> PydanticCustomError:
    """For a validator to raise: a rule over these fields of a section, as dotted names below it."""
    values = [attrgetter(name)(section) for name in names]
    return PydanticCustomError("rule", "{rule}", {"rule": rule, "names": names, "values": values})


S = TypeVar("S", bound=Section)


def checked(section: type[S], values: dict[str, Any], prefix: str = "") -> S:
    """A section from plain values; a UserError names the field, with this prefix before it. An
    unknown key is told before all else: what is missing is often what was misspelt."""
    if isinstance(values, dict):
        check_keys(prefix.rstrip(".: ") or "settings", values, section)
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise first_error(error, prefix, "give one that is allowed") from error


def differing_fields(old: dict[str, Any], new: Section, prefix: str = "") -> Iterator[str]:
    """Dotted names of the fields, execution fields excepted, in which stored values differ."""
    fresh = new.model_dump(mode="json")
    for name, info in type(new).model_fields.items():
        if is_execution(info):
            continue
        value = getattr(new, name)
        if name not in old:  # a field that came later: the run was made with its default
            if value != info.get_default(call_default_factory=True):
                yield f"{prefix}{name}"
            continue
        stored = old[name]
        if isinstance(value, Section) and isinstance(stored, dict):
            yield from differing_fields(stored, value, f"{prefix}{name}.")
        elif stored != fresh[name]:
            yield f"{prefix}{name}"


def check_keys(what: str, tree: dict[str, Any], section: type[BaseModel], prefix: str = "") -> None:
    """Refuse unknown keys of a file, `what`, with the nearest known one."""
    for key, value in tree.items():
        if key not in section.model_fields:
            near = difflib.get_close_matches(str(key), section.model_fields, n=1, cutoff=0.5)
            hint = (
                f"did you mean {prefix}{near[0]}?"
                if near
                else "known keys: " + ", ".join(section.model_fields)
            )
            raise UserError(what, f"{prefix}{key}", "is not a known key", hint)
        inner = _section_of(section.model_fields[key].annotation)
        if inner is not None and isinstance(value, dict):
            check_keys(what, value, inner, f"{prefix}{key}.")


def _section_of(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if (
            get_origin(candidate) is None
            and isinstance(candidate, type)
            and issubclass(candidate, BaseModel)
        ):
            return candidate
    return None


# What pydantic says in a programmer's words, said in those of a person with a YAML file.
RULES = {
    "missing": "is required",
    "extra_forbidden": "is not a known key",
    "string_type": "must be text; put it in quotes",
    "tuple_type": "must be a list, such as [a, b]",
    "dict_type": "must be a section, with keys below it",
    "model_type": "must be a section, with keys below it",
}


def first_error(error: ValidationError, prefix: str, next_step: str) -> UserError:
    """The first of pydantic's errors as one line: which fields, what they have, and the rule. An
    unknown key in a list's section goes before what is missing there."""
    errors = error.errors()
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    kind, context = first["type"], first.get("ctx", {})
    names, values = context.get("names", ("",)), context.get("values", (first["input"],))
    if kind == "missing":  # pydantic gives the section that lacks it
        values = (None,)
    fields = [".".join([*map(str, first["loc"]), name]).strip(".") for name in names]
    return UserError(
        ", ".join(f"{prefix}{field}" for field in fields),
        ", ".join(map(_shown, values)),
        RULES.get(kind, first["msg"].removeprefix("Value error, ")),
        next_step,
    )


def _shown(value: object) -> str:
    if isinstance(value, BaseModel):
        return "a section"
    return "nothing" if value is None else str(value)
