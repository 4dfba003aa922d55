"""What no training set should hold: secrets, personal data, broken or worthless answers.

Each rule is a function from text to the reason why it is refused, or to nothing. A refused item
is dropped and counted; nothing is edited, because a masked key is not what anybody wrote.
"""

from __future__ import annotations

import ast
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from toolgenesis_sft.corpus.drops import Unfit
from toolgenesis_sft.prompts import compiles
from toolgenesis_sft.records import ToolSchema

PEM_HEAD = "-----BEGIN "  # whole keys are recognised by the line that opens them
REPLACEMENT = "\ufffd"
MIN_REPEATING_CHARS = 2_000
# A text that zlib shrinks to less than a twentieth says the same thing over and over; programs
# and prose lie between a half and an eighth.
MAX_COMPRESSION = 20.0


@dataclass(frozen=True)
class Pattern:
    """Every match contains one of `hints`: without any the costly search is not begun.
    is_private: the last word on a match."""

    reason: str
    hints: tuple[str, ...]
    regex: re.Pattern[str]
    is_private: Callable[[re.Match[str]], bool] = bool


# RFC 2606 reserves these for documentation; nobody's mail arrives there.
RESERVED_DOMAIN = re.compile(r"(?:^|\.)(?:example(?:\.(?:com|org|net))?|test|invalid|localhost)$")
PATTERNS = (
    Pattern("secret: private key", (PEM_HEAD,), re.compile(PEM_HEAD + r"(?:[A-Z]+ )*PRIVATE KEY")),
    Pattern("secret: AWS key", ("AKIA", "ASIA"), re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")),
    Pattern(
        "secret: GitHub token",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
        re.compile(r"\bgh[pousr]_[0-9A-Za-z]{36,}\b"),
    ),
    Pattern("secret: GitHub token", ("github_pat_",), re.compile(r"\bgithub_pat_\w{50,}\b")),
    Pattern(
        "secret: OpenAI key", ("sk-",), re.compile(r"\bsk-(?:proj-|ant-)?[0-9A-Za-z_-]{32,}\b")
    ),
    Pattern("secret: Hugging Face token", ("hf_",), re.compile(r"\bhf_[0-9A-Za-z]{30,}\b")),
    Pattern("secret: Google key", ("AIza",), re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b")),
    Pattern("secret: Slack token", ("xox",), re.compile(r"\bxox[abprs]-[0-9A-Za-z-]{10,}\b")),
    Pattern(
        "secret: JSON web token",
        ("eyJ",),
        re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]+"),
    ),
    Pattern(
        "secret: password in a URL",
        ("://",),
        re.compile(r"://[^\s/:@{}<>]+:[^\s/@{}<>]{3,}@\w"),
    ),
    # Found from its sign on: a search for what may stand before one would try every word.
    Pattern(
        "personal data: e-mail address",
        ("@",),
        re.compile(r"@(?<=[\w+-]@)([A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,})\b"),
        lambda found: not RESERVED_DOMAIN.search(found.group(1).lower()),
    ),
    Pattern(
        "personal data: phone number",
        ("+",),
        re.compile(r"\+(?<![\w+].)[1-9]\d{0,2}(?:[ .-]?\(?\d{2,5}\)?){3,5}\b"),
    ),
    # The next two begin with a digit, which is searched for fast, and then look back.
    Pattern(
        "personal data: social security number",
        ("-",),
        re.compile(r"\d{3}(?<!\w...)(?<!000)(?<!666)(?<!9..)-\d{2}-\d{4}\b"),
    ),
    # Four groups and no fifth beside them: a column of numbers is no card.
    Pattern(
        "personal data: card number",
        ("",),
        re.compile(r"[3-6]\d{3}(?<!\w....)(?<!\d[ -]....)([ -]?)\d{4}\1\d{4}\1\d{4}\b(?![ -]\d)"),
        lambda found: _passes_luhn(re.sub(r"\D", "", found.group())),
    ),
)
UNFINISHED = re.compile(
    r"NotImplementedError|\b(?:TODO|FIXME|XXX)\b"
    r"|#\s*(?:your|rest of the|remaining|implement|add) (?:code|implementation|logic|tools?)\b"
    r"|#\s*\.\.\.\s*$",
    re.MULTILINE,
)


def private_findings(text: str) -> Iterator[tuple[str, str]]:
    """(reason, what was found with its middle hidden) for secrets and personal data."""
    for pattern in PATTERNS:
        if any(map(text.__contains__, pattern.hints)):
            for found in pattern.regex.finditer(text):
                if pattern.is_private(found):
                    yield pattern.reason, _hidden(found.group())
                    break


def check_text(text: str) -> None:
    """Raise Unfit for half a character, a secret, a personal datum or endless repetition."""
    try:
        raw = text.encode()
    except UnicodeEncodeError as error:
        raise Unfit("not Unicode text", str(error)) from error
    if REPLACEMENT in text:
        raise Unfit("not Unicode text", "holds U+FFFD, where bytes were lost")
    for reason, shown in private_findings(text):
        raise Unfit(reason, shown)
    if len(text) >= MIN_REPEATING_CHARS and len(raw) > MAX_COMPRESSION * len(zlib.compress(raw, 1)):
        raise Unfit("quality: repeats itself", text[:80])


def check_server(code: str, tools: tuple[ToolSchema, ...]) -> None:
    """The quality rules of a server that may be learnt from. Raises Unfit with the reason.

    tools: what the live server listed.
    """
    if not compiles(code):
        raise Unfit("syntax", _syntax_fault(code))
    check_text(code)
    if found := UNFINISHED.search(code):
        raise Unfit("quality: unfinished", found.group())
    if hollow := _hollow_function(ast.parse(code)):
        raise Unfit("quality: unfinished", f"{hollow} has no body")
    for tool in tools:
        if not tool.description.strip():
            raise Unfit("quality: tool without description", tool.name)


def _syntax_fault(code: str) -> str:
    try:
        compile(code, "server", "exec", ast.PyCF_ONLY_AST)
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return repr(error)
    return ""


def _hollow_function(tree: ast.Module) -> str:
    """The name of a function that holds nothing but `pass`, `...` or a docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and all(
            isinstance(line, ast.Pass)
            or (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
            for line in node.body
        ):
            return node.name
    return ""


def _hidden(text: str) -> str:
    """Enough to find it again, too little to use it."""
    return text[:4] + "..." + text[-2:] if len(text) > 8 else text[:2] + "..."


def _passes_luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0
