"""One unit test: the gold call with the live server's argument names, and its answer's score.

Answers are compared as values. A value is a set of leaves, each a scalar (or an empty container)
at its path; the score is 2 x (leaves that agree) / (leaves of both), so 1.0 is the expected
answer, a missing or an extra leaf costs, and 7 against 5 is 0.

- Numbers agree within 1e-6 of the larger one (or 1e-9): the noise of another order of operations,
  not another rounding. Two integers agree if equal; 2 and 2.0 do. NaN agrees with NaN.
- Strings agree after white space is normalised. One that holds a JSON object or list is read as
  that. Prose (6 words and more) agrees in part: 0.9 x its shared words x its shared numbers.
- Booleans and null agree with themselves only.
- Objects are aligned by key. Lists are aligned in order, so that one missing element costs one.
"""

from __future__ import annotations

import ast
import json
import math
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from toolgenesis_sft.benchmark import is_error_value
from toolgenesis_sft.records import Json, UnitTest
from toolgenesis_sft.sandbox.session import ToolAnswer

RELATIVE_TOLERANCE = 1e-6
ABSOLUTE_TOLERANCE = 1e-9
PROSE_WORDS = 6  # shorter strings are names, states and ids: half of one is another value
PROSE_CAP = 0.9  # of another sentence, even of the same words
# A unit test passes or it does not: every value of the answer is the expected one. (The
# leaderboard's rule, more than 0.7, passes an answer with three of ten values wrong.) Partial
# agreement is what `soft` is for.
HARD_PASS = 1 - 1e-9

MAX_DEPTH = 60  # values that are deeper or larger agree as a whole or not at all
MAX_NODES = 50_000
MAX_ALIGNED = 400_000  # steps of list alignments; what goes beyond is compared place by place
MAX_LITERAL_CHARS = 200_000  # of a Python literal, or of JSON inside a string

NUMBER = re.compile(r"\d+(?:\.\d+)?")
WORD = re.compile(r"[^\W\d_]+")
CONTAINER = re.compile(r"\s*[\[{]")
PYTHON_LITERAL = re.compile(r"\s*[\[({]|\s*(?:True|False|None)\s*$")


def judge_answer(test: UnitTest, answer: ToolAnswer) -> float:
    """Score in 0..1 of an answer.

    Where an error is expected, any error is right, whatever its words, and nothing else is.
    Where a value is expected, an error is 0.0; else its best reading counts (`readings`).
    """
    failed = answer.is_error or is_error_value(answer.value)
    if failed or test.expects_error:
        return float(failed and test.expects_error)
    expected = decode(test.expected)
    return max(compare(expected, reading) for reading in readings(answer))


def readings(answer: ToolAnswer) -> list[Json]:
    """What an answer says: its value, and its text as it stands, which recordings often hold (an
    SDK writes the items of a list one below the other). The text counts only where it says what
    the structured value does: a server that sends two different answers gets no second guess."""
    blocks = [block["text"] for block in answer.content or () if block["type"] == "text"]
    if same(_flat(blocks or [answer.text]), _flat([answer.value])):
        return [answer.value, decode(answer.text)]
    return [answer.value]


def soft_and_hard(scores: Sequence[float]) -> tuple[float, float]:
    """The mean score, and the share of tests that pass (`HARD_PASS`). `scores` is not empty:
    without a test there is no figure, and no figure is not zero."""
    assert scores, "no unit tests"
    passed = sum(score >= HARD_PASS for score in scores)
    return round(math.fsum(scores) / len(scores), 6), round(passed / len(scores), 6)


def rename_arguments(
    arguments: Mapping[str, Json], match_arguments: Mapping[str, str]
) -> dict[str, Json]:
    """The gold call's arguments under the live tool's names.

    One without a counterpart keeps its own name: the call is sent whole, and what the server
    makes of it is the server's. Only where a matched argument has that name does it go.
    """
    own = {name: value for name, value in arguments.items() if name not in match_arguments}
    return own | {
        match_arguments[name]: value for name, value in arguments.items() if name in match_arguments
    }


def decode(text: str) -> Json:
    """The value that a text stands for: JSON, a Python literal (servers answer `str(value)`), or
    the text itself. An empty text is None: a tool that returns nothing sends none."""
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # an integer of 5,000 digits is a ValueError too
        pass
    if PYTHON_LITERAL.match(text) and len(text) <= MAX_LITERAL_CHARS:
        try:
            return _json_of(ast.literal_eval(text.strip()))
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            pass
    return text


def compare(expected: Json, actual: Json) -> float:
    """Agreement of two values in 0..1; 1.0 exactly where they are the same. Symmetric."""
    left, right = (decode(side) if isinstance(side, str) else side for side in (expected, actual))
    try:
        a, b = NodeBuilder().build(left), NodeBuilder().build(right)
    except TooLarge:
        return float(same(left, right))
    agreed = Alignment().agreement(a, b)
    return 1.0 if agreed == a.size == b.size else 2 * agreed / (a.size + b.size)


def same(left: Json, right: Json) -> bool:
    """Whether two values of any size and depth are the same, numbers within the tolerance."""
    stack = [(left, right)]
    while stack:
        a, b = stack.pop()
        if isinstance(a, dict) and isinstance(b, dict):
            if a.keys() != b.keys():
                return False
            stack.extend((a[key], b[key]) for key in a)
        elif isinstance(a, list) and isinstance(b, list):
            if len(a) != len(b):
                return False
            stack.extend(zip(a, b, strict=True))
        elif isinstance(a, dict | list) or isinstance(b, dict | list) or not same_scalar(a, b):
            return False
    return True


def same_scalar(a: Json, b: Json) -> bool:
    """Whether two scalars are one value."""
    if isinstance(a, str) and isinstance(b, str):
        return a == b or plain_text(a) == plain_text(b)
    if isinstance(a, bool | str | None) or isinstance(b, bool | str | None):
        return type(a) is type(b) and bool(a == b)
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    try:
        left, right = float(a), float(b)
    except OverflowError:  # an integer beyond 1e308
        return bool(a == b)
    return (math.isnan(left) and math.isnan(right)) or math.isclose(
        left, right, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE
    )


def plain_text(text: str) -> str:
    """Composed Unicode, single spaces. Text that is not stream-safe (UAX #15, section 13) stays as
    it is: composing takes the square of the marks on one letter, and no language has 30."""
    if not text.isascii() and not _many_marks().search(text):
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.split())


@cache
def _many_marks() -> re.Pattern[str]:
    """More than 30 non-starters in a row."""
    marks = "".join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.combining(c))
    return re.compile(f"[{marks}]{{31}}")


def prose_agreement(a: str, b: str) -> float:
    """0.9 x Dice of the words x Dice of the numbers of two sentences, 0.0 for anything shorter."""
    if min(len(a.split()), len(b.split())) < PROSE_WORDS:
        return 0.0
    words = _dice(WORD.findall(a.casefold()), WORD.findall(b.casefold()))
    return PROSE_CAP * words * _dice(NUMBER.findall(a), NUMBER.findall(b))


class TooLarge(Exception):
    """A value beyond MAX_DEPTH or MAX_NODES."""


@dataclass(slots=True)
class Node:
    """A value ready to be compared.

    size: its leaves, at least 1. cost: its steps in a comparison, long texts count as more.
    """

    value: Json
    fields: dict[str, Node] | None = None
    items: list[Node] | None = None
    size: int = 1
    cost: int = 1


@dataclass
class NodeBuilder:
    """Counts what it builds; raises TooLarge."""

    nodes_left: int = MAX_NODES

    def build(self, value: Json, depth: int = 0) -> Node:
        self.nodes_left -= 1
        if self.nodes_left < 0 or depth > MAX_DEPTH:
            raise TooLarge
        if isinstance(value, dict):
            fields = {str(key): self.build(inner, depth + 1) for key, inner in value.items()}
            return self._container(Node(None, fields=fields), list(fields.values()))
        if isinstance(value, list):
            items = [self.build(inner, depth + 1) for inner in value]
            return self._container(Node(None, items=items), items)
        if isinstance(value, str):
            if CONTAINER.match(value) and len(value) <= MAX_LITERAL_CHARS:
                inner = decode(value)
                if isinstance(inner, dict | list):
                    return self.build(inner, depth + 1)
            text = plain_text(value)
            return Node(text, cost=1 + len(text) // 16)
        return Node(value)

    def _container(self, node: Node, parts: list[Node]) -> Node:
        node.size = sum(part.size for part in parts) or 1
        node.cost = sum(part.cost for part in parts) + 1
        return node


@dataclass
class Alignment:
    """Counts the leaves that agree. Each pair of nodes is compared once; `steps_left` bounds the
    time that list alignments may take together."""

    steps_left: int = MAX_ALIGNED
    known: dict[tuple[int, int], float] = field(default_factory=dict)

    def agreement(self, a: Node, b: Node) -> float:
        """Leaves of `a` that agree with their counterparts in `b`, at most min(a.size, b.size)."""
        key = (id(a), id(b))
        if key not in self.known:
            self.known[key] = self._agreement(a, b)
        return self.known[key]

    def _agreement(self, a: Node, b: Node) -> float:
        if a.fields is not None and b.fields is not None:
            if not a.fields and not b.fields:
                return 1.0
            shared = sorted(a.fields.keys() & b.fields.keys())
            return math.fsum(self.agreement(a.fields[key], b.fields[key]) for key in shared)
        if a.items is not None and b.items is not None:
            return self._lists(a.items, b.items) if a.items or b.items else 1.0
        if (
            a.fields is not None
            or a.items is not None
            or b.fields is not None
            or b.items is not None
        ):
            return 0.0
        if same_scalar(a.value, b.value):
            return 1.0
        if isinstance(a.value, str) and isinstance(b.value, str):
            return prose_agreement(a.value, b.value)
        return 0.0

    def _lists(self, a: list[Node], b: list[Node]) -> float:
        """The best agreement of an alignment that keeps the order.

        What is equal at both ends is aligned at once, which no alignment beats.
        """
        start, shorter = 0, min(len(a), len(b))
        while start < shorter and self._equal(a[start], b[start]):
            start += 1
        end = 0
        while end < shorter - start and self._equal(a[-1 - end], b[-1 - end]):
            end += 1
        ends = sum(node.size for node in (*a[:start], *a[len(a) - end :]))
        a, b = a[start : len(a) - end], b[start : len(b) - end]
        steps = min(len(b) * sum(node.cost for node in a), len(a) * sum(node.cost for node in b))
        if steps > self.steps_left:
            return ends + math.fsum(map(self.agreement, a, b))
        self.steps_left -= steps
        best = [0.0] * (len(b) + 1)  # the row of the alignment table for the items of `a` so far
        for left in a:
            diagonal = 0.0
            for column, right in enumerate(b, start=1):
                paired = diagonal + self.agreement(left, right)
                diagonal = best[column]
                best[column] = max(best[column], best[column - 1], paired)
        return ends + best[-1]

    def _equal(self, a: Node, b: Node) -> bool:
        return a.size == b.size and self.agreement(a, b) == a.size


def _flat(values: list[Json]) -> list[Json]:
    """What is in lists of lists, in order, with texts decoded."""
    flat: list[Json] = []
    stack = values[::-1]
    while stack:
        value = stack.pop()
        value = decode(value) if isinstance(value, str) else value
        if isinstance(value, list):
            stack.extend(reversed(value))
        else:
            flat.append(value)
    return flat


def _dice(a: Sequence[str], b: Sequence[str]) -> float:
    shared = (Counter(a) & Counter(b)).total()
    return 2 * shared / (len(a) + len(b)) if a or b else 1.0


def _json_of(literal: object) -> Json:
    """A Python literal as a JSON value. Raises ValueError for bytes, complex and the like."""
    if isinstance(literal, dict):
        return {str(key): _json_of(value) for key, value in literal.items()}
    if isinstance(literal, list | tuple):
        return [_json_of(value) for value in literal]
    if isinstance(literal, set):
        return sorted((_json_of(value) for value in literal), key=repr)
    if literal is None or isinstance(literal, bool | int | float | str):
        return literal
    raise ValueError(f"{type(literal).__name__} is no JSON value")
