from __future__ import annotations

import json

from toolgenesis_sft.scoring.presentable import DEEPER, MAX_CHARS, excerpt, presentable


def nested(depth: int) -> object:
    deep: object = 1
    for _ in range(depth):
        deep = [deep]
    return deep


def test_evidence_is_json_that_any_reader_takes() -> None:
    odd = {"a": float("nan"), "b": 10**5000, "c": "x" * 10**6, "d": nested(100), "e": "\ud800"}
    for shown in (presentable(odd), excerpt(odd)):
        text = json.dumps(shown, allow_nan=False)
        assert len(text) < 300_000
        assert DEEPER in text


def test_a_small_answer_is_its_own_excerpt() -> None:
    answer = {"a": [1, {"b": None}], "c": "x" * MAX_CHARS, "d": [], "e": {}}
    assert excerpt(answer) == answer


def test_of_a_large_answer_the_beginning_is_kept_and_the_rest_is_counted() -> None:
    assert excerpt(list(range(10)), 6) == [0, 1, 2, 3, 4, "[5 more]"]
    assert excerpt({"a": [1, 2, 3], "b": 4, "c": 5}, 3) == {"a": [1, "[2 more]"], "...": "[2 more]"}
    assert len(json.dumps(excerpt([[[]] * 1000] * 1000))) < 20_000
