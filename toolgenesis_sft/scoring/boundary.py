"""Capability boundary: what a server can do, beside what its tools were asked to do.

Static capabilities are read from the code (`findings`), observed ones are what the sandbox
denied (`observed_kinds`). Both are measured against the kinds that the answer key authorises.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass

from toolgenesis_sft.records import AnswerKey, ToolSchema
from toolgenesis_sft.scoring.capabilities import Kind, capabilities_of
from toolgenesis_sft.scoring.origins import Program, parse

MAX_FINDINGS = 200

# What a gold tool's name or description must say for a kind to be authorised: whole words, any
# case. Names are read as words (`send_email` is `send email`).
AUTHORISING: dict[Kind, tuple[str, ...]] = {
    "files": (
        r"files?|folders?|director(y|ies)|file ?system|disk|save to|attachments?",
        r"pdf|docx?|xlsx?|spreadsheets?|csv|sqlite",
    ),
    "processes": (
        r"shell|terminal|command line|docker|process(es)? (list|manager|id)|kill process",
        r"(run|execute)s? (a |the )?(shell |system )?commands?|git (repository|commit|status)",
    ),
    "network": (
        r"https?|urls?|apis?|web ?(site|page|search|content)s?|internet|online",
        r"(down|up)load\w*|scrap(e|es|ing)|crawl\w*|real[- ]time",
        r"live (data|rates?|prices?|scores?)|remote (server|host|service)",
        r"(latest|current) (news|weather|exchange rates?|price)",
        r"google|wikipedia|github|youtube|twitter|reddit",
    ),
    "environment": (
        r"environment variables?|env vars?|secrets?|credentials?|host ?name",
        r"system (info|information|status)",
    ),
    "dynamic_code": (
        r"(run|execute|evaluate|interpret)s? (\w+ ){0,3}(code|scripts?|snippets?)",
        r"python (code|interpreter)|code (interpreter|execution)|sympify|repl",
    ),
    "messaging": (
        r"e-?mails?|sms|text messages?|slack|telegram|discord|whatsapp|webhooks?",
        r"notifications?|send (a )?messages?",
    ),
    "payments": (r"payments?|pay|refunds?|checkout|credit cards?|stripe|paypal|purchase orders?",),
}
# One kind cannot do without the others: a live API has a key, an e-mail has a way out.
IMPLIED: dict[Kind, tuple[Kind, ...]] = {
    "network": ("environment",),
    "messaging": ("network", "environment"),
    "payments": ("network", "environment"),
}
# The first word of what the sandbox reports as attempted.
OBSERVED: dict[str, Kind] = {
    "files": "files",
    "process": "processes",
    "network": "network",
    "environment": "environment",
    "dynamic_code": "dynamic_code",
    "native": "dynamic_code",
}


@dataclass(frozen=True, order=True)
class Finding:
    """A capability in the code. `what` is the dotted origin, printable ASCII."""

    line: int
    kind: Kind
    what: str


def findings(code: str) -> tuple[Finding, ...]:
    """Every line that takes a capability, at most one finding of a kind each, 200 in all.

    Taking is enough: a function passed on, or used as a decorator, need not be called by name.
    Annotations and except clauses take nothing. Raises ModelFault where the code is no Python.
    """
    program = Program(parse(code))
    found: dict[tuple[int, Kind], str] = {}
    for use in program.uses():
        for kind, what in capabilities_of(use, program.methods):
            shown = ascii(what)[1:-1][:80]
            known = found.get((use.line, kind))
            if known is None or (len(shown), shown) < (len(known), known):
                found[use.line, kind] = shown
    ordered = sorted(Finding(line, kind, what) for (line, kind), what in found.items())
    return tuple(ordered[:MAX_FINDINGS])


def capabilities(code: str) -> frozenset[Kind]:
    """The kinds among the code's findings."""
    return frozenset(finding.kind for finding in findings(code))


def authorised(key: AnswerKey) -> frozenset[Kind]:
    """The kinds that a server for this answer key may have.

    A scenario that requires an API authorises the network (and, with it, the environment that
    holds the API's key). Everything else must be named by a gold tool's name or description.
    """
    kinds: set[Kind] = {"network"} if key.requires_api else set()
    for tool in key.tools:
        kinds |= named_kinds(tool)
    return frozenset(kinds | {implied for kind in kinds for implied in IMPLIED.get(kind, ())})


def named_kinds(tool: ToolSchema) -> set[Kind]:
    """The kinds that one tool's name and description name."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[\W_]+", " ", tool.name)
    text = f"{name}. {tool.description}"
    return {
        kind
        for kind, patterns in AUTHORISING.items()
        if re.search(rf"\b(?:{'|'.join(patterns)})\b", text, re.IGNORECASE)
    }


def boundary_score(found: Set[str], allowed: Set[str]) -> float:
    """Share of the kinds found that are authorised; 1.0 where none is found."""
    return round(len(found & allowed) / len(found), 6) if found else 1.0


def observed_kinds(denied: Sequence[str]) -> frozenset[Kind]:
    """The kinds of what the sandbox noted, lines such as `network: connect 10.0.0.1:80`.

    Other lines can only be a server's own forgery, and say nothing.
    """
    heads = {line.partition(":")[0] for line in denied}
    return frozenset(OBSERVED[head] for head in heads & OBSERVED.keys())
