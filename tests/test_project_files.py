"""What people and sites read at the top of the repository: licence, citation, changelog, forms."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from toolgenesis_sft import __version__
from toolgenesis_sft.yaml_text import read_yaml

ROOT = Path(__file__).resolve().parent.parent
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_licence_is_apache_2_and_every_file_that_names_one_agrees() -> None:
    licence = " ".join(text("LICENSE").split())
    assert licence.startswith("Apache License Version 2.0, January 2004")
    for section in (
        "3. Grant of Patent License.",
        "9. Accepting Warranty or Additional Liability.",
    ):
        assert section in licence
    project = tomllib.loads(text("pyproject.toml"))["project"]
    assert (project["license"], project["license-files"]) == ("Apache-2.0", ["LICENSE"])
    assert read_yaml(ROOT / "CITATION.cff")["license"] == "Apache-2.0"
    assert "Licence: Apache-2.0" in text("README.md")


def test_the_citation_has_what_the_format_requires_and_this_version() -> None:
    citation = read_yaml(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"title", "message", "authors"} <= citation.keys()
    assert all("name" in author or "family-names" in author for author in citation["authors"])
    assert citation["type"] == "software"
    assert citation["version"] == __version__


def test_the_changelog_begins_with_this_version_and_says_what_changed() -> None:
    entries = re.split(r"^## ", text("CHANGELOG.md"), flags=re.M)[1:]
    version, _, body = entries[0].partition(" ")
    assert version == __version__
    assert re.search(r"^### (Added|Changed|Deprecated|Removed|Fixed|Security)$", body, flags=re.M)
    assert re.search(r"^- \S", body, flags=re.M)


def fields(form: dict[str, Any]) -> list[dict[str, Any]]:
    return [part for part in form["body"] if part["type"] != "markdown"]


@pytest.mark.parametrize(
    "path", [path for path in FORMS if path.name != "config.yml"], ids=lambda path: path.stem
)
def test_an_issue_form_has_what_github_requires(path: Path) -> None:
    form = read_yaml(path)
    assert form["name"]
    assert form["description"]
    asked = fields(form)
    assert asked
    assert {part["type"] for part in asked} <= {"input", "textarea", "dropdown", "checkboxes"}
    assert all(part["attributes"]["label"] for part in asked)
    ids = [part["id"] for part in asked]
    assert len(set(ids)) == len(ids)
    assert any(part.get("validations", {}).get("required") for part in asked)


def test_an_issue_form_asks_for_files_that_a_run_has() -> None:
    """A form that names a file under another name sends people looking for what is not there."""
    asked = " ".join(path.read_text(encoding="utf-8") for path in FORMS)
    named = set(re.findall(r"\b(\w+\.jsonl?)\b", asked))
    package = " ".join(path.read_text("utf-8") for path in (ROOT / "toolgenesis_sft").rglob("*.py"))
    assert named
    assert {name for name in named if f'"{name}"' not in package} == set()


def test_issues_without_a_form_stay_possible() -> None:
    config = read_yaml(ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml")
    assert config["blank_issues_enabled"] is True
