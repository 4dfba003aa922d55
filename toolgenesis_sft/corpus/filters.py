"""What no training set should hold: secrets, personal data, broken or worthless answers.

Each rule is a function from text to the reason why it is refused, or to nothing. A refused item
is dropped and counted; nothing is edited, because a masked key is not what anybody wrote.
"""

from __future__ import annotations

import ast
import base64
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


def _is_varied(found: re.Match[str]) -> bool:
    """Not `sk-xxxxxxxx`, and not the key of a manual."""
    return len(set(found.group()[-20:])) >= 4 and not found.group().endswith("EXAMPLE")


def _is_persons_mail(found: re.Match[str]) -> bool:
    before = found.string[max(0, found.start() - 8) : found.start()].lower()
    return not RESERVED_DOMAIN.search(found.group(1).lower()) and not before.endswith(NOBODY)


def _is_password(found: re.Match[str]) -> bool:
    user, password, host = map(str.lower, found.groups())
    return password not in {*STAND_INS, user} and not RESERVED_DOMAIN.search(host)


def _is_basic_login(found: re.Match[str]) -> bool:
    try:
        return b":" in base64.b64decode(found.group(1), validate=True)
    except ValueError:
        return False


def _is_phone(found: re.Match[str]) -> bool:
    """By E.164 and the numbering plan of +1, where 555 is nobody's; no float with a sign."""
    digits = re.sub(r"\D", "", found.group())
    if digits.startswith("1"):
        return bool(NORTH_AMERICAN.fullmatch(digits))
    return 10 <= len(digits) <= 15 and not re.fullmatch(r"\+\d+\.\d+", found.group())


def _is_north_american(found: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", found.string[max(0, found.start() - 9) : found.end()])
    return bool(NORTH_AMERICAN.fullmatch("1" + digits[-10:]))


def _is_card(found: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", found.group())
    return bool(CARD_HEAD.match(digits)) and digits not in DOCUMENTED and _passes_luhn(digits)


def _is_iban(found: re.Match[str]) -> bool:
    """ISO 13616: 1 is left by 97, with letters as numbers from 10 on and the head moved behind."""
    text = found.string[found.start() - 2 : found.end()].replace(" ", "")
    number = "".join(str(int(sign, 36)) for sign in text[4:] + text[:4])
    return text not in DOCUMENTED and int(number) % 97 == 1


# RFC 2606 reserves these for documentation; nobody's mail arrives there.
RESERVED_DOMAIN = re.compile(r"(?:^|\.)(?:example(?:\.(?:com|org|net))?|test|invalid|localhost)$")
NOBODY = ("git", "noreply", "no-reply")
STAND_INS = ("pass", "passwd", "password", "pwd", "secret", "your_password", "***", "xxx")
NORTH_AMERICAN = re.compile(r"1(?!555)[2-9]\d\d(?!555)[2-9]\d{6}")
# Visa, Mastercard, Discover, JCB and Amex: other numbers that pass Luhn's test are ids.
CARD_HEAD = re.compile(r"4|5[1-5]|2[2-7]|6[045]|3[457]")
# Numbers that manuals of cards and banks show, and programs are tried with.
DOCUMENTED = frozenset(
    [
        *("4111111111111111", "4242424242424242", "4012888888881881", "4000056655665556"),
        *("5555555555554444", "5105105105105100", "5200828282828210", "6011111111111117"),
        *("6011000990139424", "3530111333300000", "378282246310005", "371449635398431"),
        *("DE89370400440532013000", "GB82WEST12345698765432", "GB29NWBK60161331926819"),
        *("FR1420041010050500013M02606", "NL91ABNA0417164300"),
    ]
)
PATTERNS = (
    Pattern("secret: private key", (PEM_HEAD,), re.compile(PEM_HEAD + r"(?:[A-Z]+ )*PRIVATE KEY")),
    Pattern(
        "secret: AWS key",
        ("AKIA", "ASIA"),
        re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
        _is_varied,
    ),
    Pattern(
        "secret: AWS key",
        ("ecret", "ECRET"),
        re.compile(
            r"(?i)secret_?(?:access_?)?key[\\\"']*\s*[:=]\s*[\\\"']*[A-Z0-9/+]{40}(?![A-Z0-9/+])"
        ),
        lambda found: not found.group().endswith("EXAMPLEKEY"),
    ),
    Pattern(
        "secret: GitHub token",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
        re.compile(r"\bgh[pousr]_[0-9A-Za-z]{36,}\b"),
        _is_varied,
    ),
    Pattern("secret: GitHub token", ("github_pat_",), re.compile(r"\bgithub_pat_\w{50,}\b")),
    Pattern("secret: GitLab token", ("glpat-",), re.compile(r"\bglpat-[\w-]{20,}"), _is_varied),
    Pattern("secret: npm token", ("npm_",), re.compile(r"\bnpm_[0-9A-Za-z]{36}\b"), _is_varied),
    Pattern(
        "secret: OpenAI key",
        ("sk-",),
        re.compile(r"\bsk-(?:proj-|ant-)?[0-9A-Za-z_-]{32,}\b"),
        _is_varied,
    ),
    Pattern(
        "secret: Hugging Face token", ("hf_",), re.compile(r"\bhf_[0-9A-Za-z]{30,}\b"), _is_varied
    ),
    Pattern("secret: Google key", ("AIza",), re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b"), _is_varied),
    Pattern("secret: Slack token", ("xox",), re.compile(r"\bxox[abprs]-[0-9A-Za-z-]{10,}\b")),
    Pattern(
        "secret: webhook",
        ("hooks.slack.com/services/", "/api/webhooks/"),
        re.compile(
            r"hooks\.slack\.com/services/T\w+/B\w+/\w{20,}|/api/webhooks/\d{17,20}/[\w-]{60,}"
        ),
        _is_varied,
    ),
    Pattern(
        "secret: Stripe key",
        ("_live_",),
        re.compile(r"\b[rs]k_live_[0-9A-Za-z]{20,}\b"),
        _is_varied,
    ),
    Pattern(
        "secret: SendGrid key", ("SG.",), re.compile(r"\bSG\.[\w-]{22}\.[\w-]{43}"), _is_varied
    ),
    Pattern("secret: Azure key", ("AccountKey=",), re.compile(r"AccountKey=[0-9A-Za-z+/]{80,}==")),
    Pattern(
        "secret: Telegram token", (":AA",), re.compile(r"\b\d{8,10}:AA[\w-]{33}\b"), _is_varied
    ),
    Pattern(
        "secret: JSON web token",
        ("eyJ",),
        re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]+"),
    ),
    Pattern(
        "secret: authorization header",
        ("asic ",),
        re.compile(r"\bBasic ([0-9A-Za-z+/]{12,}={0,2})(?![\w+/=])"),
        _is_basic_login,
    ),
    Pattern(
        "secret: authorization header",
        ("earer ",),
        re.compile(r"\bBearer (?=[\w.~+/-]*\d)(?=[\w.~+/-]*[a-zA-Z])[\w.~+/-]{32,}"),
        _is_varied,
    ),
    Pattern(
        "secret: password in a URL",
        ("://",),
        re.compile(r"://([^\s/:@{}<>]+):([^\s/@{}<>$]{3,})@(\w[\w.-]*)"),
        _is_password,
    ),
    # Found from its sign on: a search for what may stand before one would try every word.
    Pattern(
        "personal data: e-mail address",
        ("@",),
        re.compile(r"@(?<=[\w+-]@)([A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,})\b"),
        _is_persons_mail,
    ),
    Pattern(
        "personal data: phone number",
        ("+",),
        re.compile(r"\+(?<![\w+].)[1-9]\d{0,2}(?:[ .-]?\(?\d{1,5}\)?){3,6}\b"),
        _is_phone,
    ),
    # Both are found from a hyphen on: digits are everywhere.
    Pattern(
        "personal data: phone number",
        ("-",),
        re.compile(
            r"-(?:(?<=\d{3}[-. ]\d{3}-)(?<![\w.-]\d{3}.\d{3}-)|(?<=\(\d{3}\) \d{3}-))"
            r"\d{4}\b(?![-.]\d)"
        ),
        _is_north_american,
    ),
    Pattern(
        "personal data: social security number",
        ("-",),
        re.compile(
            r"-(?<=\d{3}-)(?<!\w\d{3}-)(?<!000-)(?<!666-)(?<!9\d\d-)(?!00)\d{2}-(?!0000)\d{4}\b"
        ),
    ),
    # The others begin with a digit, which is searched for fast, and then look back.
    # Four groups and no fifth beside them: a column of numbers is no card. Amex has three.
    Pattern(
        "personal data: card number",
        ("",),
        re.compile(r"[2-6]\d{3}(?<!\w....)(?<!\d[ -]....)([ -]?)\d{4}\1\d{4}\1\d{4}\b(?![ -]\d)"),
        _is_card,
    ),
    Pattern(
        "personal data: card number",
        ("",),
        re.compile(r"3[47]\d\d(?<!\w....)(?<!\d[ -]....)([ -]?)\d{6}\1\d{5}\b(?![ -]\d)"),
        _is_card,
    ),
    Pattern(
        "personal data: bank account",
        ("",),
        re.compile(
            r"\d\d(?<=[A-Z]{2}..)(?<!\w[A-Z]{2}..)(?: ?[0-9A-Z]{4}){2,7}(?: ?[0-9A-Z]{1,4})?\b"
        ),
        _is_iban,
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
