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
    "personal data: card number": "4532 0151 " + "1283 0366",
}
MORE = [
    (
        "secret: AWS key",
        "aws_secret_access_key = " + "wJalrXUtnFEMIK7MDENG" + "bPxRfiCYzzzz1234abcd",
    ),
    (
        "secret: AWS key",
        '{"SecretAccessKey": "' + "wJalrXUtnFEMIK7MDENG" + 'bPxRfiCYzzzz1234abcd"}',
    ),
    ("secret: private key", '"-----BEGIN ' + 'RSA PRIVATE KEY-----\\nMIIE"'),
    (
        "secret: webhook",
        "https://hooks.slack.com/services/" + "T0A/B0B/" + "aB3dE6gH9jK2mN5pQ8sT1vW4",
    ),
    ("secret: Stripe key", "sk_" + "live_" + "a1B2c3D4e5F6g7H8i9J0"),
    ("secret: GitLab token", "glpat-" + "a1B2c3D4e5F6g7H8i9J0"),
    ("secret: npm token", "npm_" + "a1B2c3D4e5F6g7H8i9J0" + "k1L2m3N4o5P6q7R8"),
    ("secret: Telegram token", "123456789:" + "AA" + "a1B2c3D4e5F" * 3),
    ("secret: authorization header", "Basic " + "Ym9iOnMzY3IzdHB3"),
    ("secret: authorization header", "Bearer " + "a1B2c3D4e5F6g7H8" * 2),
    ("personal data: phone number", "(415) 867-" + "5309"),
    ("personal data: phone number", "+33 1 42 68 " + "53 11"),
    ("personal data: card number", "3714 963539 " + "10004"),
    ("personal data: bank account", "GB33 BUKB 2020 " + "1555 5555 55"),
]


@pytest.mark.parametrize("reason", SECRETS)
def test_each_secret_and_personal_datum_is_found_and_not_repeated(reason: str) -> None:
    planted = SECRETS[reason]
    [(found, shown)] = private_findings(f"see {planted} here")
    assert found == reason
    assert planted not in shown


@pytest.mark.parametrize(("reason", "planted"), MORE)
def test_other_forms_of_them_are_found_too(reason: str, planted: str) -> None:
    assert [found for found, _ in private_findings(f"see {planted} here")] == [reason]


@pytest.mark.parametrize(
    "text",
    [
        "write to help@example.com or root@mail.example.org",
        "git clone git@github.com:org/repo.git; sent by noreply@github.com",
        "4111 1111 1111 1111, 3782 822463 10005 and DE89 3704 0044 0532 0130 00 are in manuals",
        "api_key='sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx', id AKIA" + "IOSFODNN7EXAMPLE",
        "postgres://user:password@host/db and https://admin:admin@router",
        "3f2504e0-4f89-11d3-9a0c-0305e82c3301, 2024-05-01T12:30:45.123456+02:00, v1.2.3-rc.4+build",
        "+48.858412345 and -2.29448 north; (555) 555-0123 or +1-202-555-0143 is nobody's",
        "d41d8cd98f00b204e9800998ecf8427e 1714567890123456 978-3-16-148410-0 node@18.0.0",
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
