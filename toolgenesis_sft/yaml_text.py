"""YAML as this project reads it: UTF-8, and no key given twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from toolgenesis_sft.errors import UserError


class UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, which YAML's own loader takes in silence."""


def _unique_mapping(loader: UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in mapping:
            raise UserError(
                f"{key_node.start_mark.name}: line {key_node.start_mark.line + 1}",
                str(key),
                "the key is given twice",
                "remove one of the two",
            )
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def parse_yaml(text: str, name: str = "text") -> Any:
    """The value of a YAML text. Raises yaml.YAMLError where it is broken, and UserError, with
    `name` as the field, where a key is there twice."""
    loader = UniqueKeyLoader(text)
    loader.name = name
    return loader.get_single_data()


def read_yaml(path: Path) -> Any:
    """A YAML file with unique keys. Raises UserError where it is missing or broken."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise UserError(
            "file",
            str(path),
            f"cannot be read ({reason})",
            "check the path; recipes lie in recipes/",
        ) from error
    try:
        return parse_yaml(text, path.name)
    except yaml.YAMLError as error:
        raise UserError(
            "file", str(path), f"is not YAML ({error})", "mend the line named here"
        ) from error
