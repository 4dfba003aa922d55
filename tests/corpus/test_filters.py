"""What is refused, and what only looks like it. Planted secrets are put together at run time."""

from __future__ import annotations

import pytest

from tests.corpus.conftest import MINI
from toolgenesis_sft.corpus.drops import EXAMPLES_PER_REASON, Drops, Unfit
from toolgenesis_sft.corpus.filters import check_server, check_text, private_findings
from toolgenesis_sft.records import ToolSchema

SECRETS = {
    "secret: private key": "-----BEGIN " + "RSA PRIVATE KEY-----",
    "secret: AWS key": "AKIA" + "ABCDEFGHIJKLMNOP",
    "secret: GitHub token": "ghp_" + "a1B2" * 9,
    "secret: OpenAI key": "sk-" + "proj-" + "x9Y8" * 8,
    "secret: Hugging Face token": "hf_" + "AbCd" * 8,
    "secret: Google key": "AIza" + "Sy012" * 7,
    "secret: Slack token": "xoxb-" + "1234567890-abc",
    "secret: JSON web token": "eyJ" + "hbGciOiJIUzI1" + ".eyJ" + "zdWIiOiIxMjM0" + ".sig",
    "secret: password in a URL": "postgres://admin:" + "hunter22@db/x",
    "personal data: e-mail address": "jane.doe" + "@gmail.com",
    "personal data: phone number": "+49 30 " + "1234 5678",
    "personal data: social security number": "123-45-" + "6789",
    "personal data: card number": "4111 1111 " + "1111 1111",
}


@pytest.mark.parametrize("reason", SECRETS)
def test_each_secret_and_personal_datum_is_found_and_not_repeated(reason: str) -> None:
    planted = SECRETS[reason]
    [(found, shown)] = private_findings(f"see {planted} here")
    assert found == reason
    assert planted not in shown


@pytest.mark.parametrize(
    "text",
    [
        "write to help@example.com or root@mail.example.org",
        "the decorator @mcp.tool() and a matrix a @ b.c",
        "https://user:{password}@host and https://example.com:8080/a@b",
        "sk-learn, hf_transfer, AKIA, +1 point, 2024-05-01, 1234 5678 9012 3456",
        "-----BEGIN " + "CERTIFICATE-----",
        " ".join(map(str, range(3000, 5000))),
    ],
)
def test_what_only_looks_private_is_kept(text: str) -> None:
    assert list(private_findings(text)) == []


def test_a_text_that_repeats_itself_is_refused() -> None:
    with pytest.raises(Unfit, match="repeats itself"):
        check_text("I am sure. " * 400)
    check_text("\n".join(f"{n} squared is {n * n}." for n in range(400)))


TOOL = ToolSchema(name="f", description="Does it.")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def f(:\n", "syntax"),
        ("def f():\n    raise NotImplementedError\n", "quality: unfinished"),
        ("x = 1  # TO" + "DO: the rest\n", "quality: unfinished"),
        ('def f():\n    """Says what it would do."""\n', "quality: unfinished"),
        ("def f():\n    pass\n", "quality: unfinished"),
    ],
)
def test_a_server_that_is_broken_or_unfinished_is_refused(code: str, reason: str) -> None:
    with pytest.raises(Unfit) as caught:
        check_server(code, (TOOL,))
    assert caught.value.reason == reason


def test_a_tool_without_a_description_is_refused() -> None:
    with pytest.raises(Unfit, match="tool without description"):
        check_server("x = 1\n", (ToolSchema(name="g"),))


def test_our_own_servers_pass_every_rule() -> None:
    paths = sorted((MINI / "servers").glob("*.py"))
    assert len(paths) >= 36
    for path in paths:
        check_server(path.read_text(encoding="utf-8"), (TOOL,))


def test_drops_count_everything_and_keep_a_few_examples() -> None:
    drops = Drops()
    for number in range(10):
        drops.add("too long", f"sample {number}", "9 tokens\nof 8")
    drops.add("syntax", "other")
    first, second = drops.to_json()
    assert (first["reason"], first["count"]) == ("too long", 10)
    assert len(first["examples"]) == EXAMPLES_PER_REASON
    assert first["examples"][0] == {"what": "sample 0", "detail": "9 tokens of 8"}
    assert drops.line() == "10 too long, 1 syntax"
    assert (second["count"], drops.total) == (1, 11)
