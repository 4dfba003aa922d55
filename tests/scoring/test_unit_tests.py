from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest

from toolgenesis_sft.records import Json, UnitTest
from toolgenesis_sft.sandbox.session import ToolAnswer
from toolgenesis_sft.scoring.unit_tests import (
    MAX_NODES,
    compare,
    decode,
    judge_answer,
    readings,
    rename_arguments,
    same,
    soft_and_hard,
)

NAN = float("nan")
ANSWER: dict[str, Any] = {
    "sku": "BOLT-M6",
    "on_hand": 200,
    "price": 0.634,
    "must_reorder": False,
    "note": None,
    "lots": [{"id": 1, "size": 250}, {"id": 2, "size": 10}],
    "tags": [],
}
NUM_LEAVES = 10


def changed(**changes: Json) -> dict[str, Any]:
    return {**ANSWER, **changes}


# --- values ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (ANSWER, ANSWER),
        (ANSWER, dict(reversed(ANSWER.items()))),
        (ANSWER, json.dumps(ANSWER, indent=4)),
        (json.dumps(ANSWER), ANSWER),
        (str(ANSWER), ANSWER),
        (7, 7.0),
        ("7", 7),
        (0.1 + 0.2, 0.3),
        (1e-17, 0),
        (NAN, NAN),
        (math.inf, math.inf),
        (10**400, 10**400),
        ("two  words\n", "two words"),
        ("caf\u00e9", "cafe\u0301"),
        ("", None),
        ("[(1, 'a'), (2, 'b')]", [[1, "a"], [2, "b"]]),
        ("{0: 3, 1: 0}", {"0": 3, "1": 0}),
        ("True", True),
        ({"payload": '{"a": [1, 2]}'}, {"payload": {"a": [1.0, 2]}}),
        ([], []),
        ({}, {}),
    ],
)
def test_the_same_value_agrees_whole(expected: Json, actual: Json) -> None:
    assert compare(expected, actual) == 1.0
    assert compare(actual, expected) == 1.0


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (7, 5),
        ("7", "5"),
        (200, 201),
        (1_754_699_154_000, 1_754_699_154_001),
        (7.0548, 7.055),
        (1, True),
        (0, False),
        (0, None),
        ("open", "closed"),
        ("Alice Johnson", "Alice Smith"),
        ({"id": "42"}, {"id": 42}),
        ([1], {"0": 1}),
        ([], {}),
        (NAN, 0),
        (math.inf, -math.inf),
        (10**400, 10**400 + 1),
        (10**400, 1.5),
        ({"a": 1}, {"b": 1}),
        ({"a": 1, "b": 2}, {"a": 2, "b": 1}),
        ({"message": "ok", "data": 1}, "ok"),
    ],
)
def test_another_value_agrees_not_at_all(expected: Json, actual: Json) -> None:
    assert compare(expected, actual) == 0.0
    assert compare(actual, expected) == 0.0


@pytest.mark.parametrize(
    ("actual", "score"),
    [
        (changed(on_hand=199), 9 / 10),
        (changed(on_hand=199, price=0.7), 8 / 10),
        ({k: v for k, v in ANSWER.items() if k != "sku"}, 18 / 19),
        (changed(extra="x"), 20 / 21),
        (changed(lots=ANSWER["lots"][1:]), 16 / 18),
        (changed(lots=ANSWER["lots"][::-1]), 8 / 10),
        (changed(lots=[{"id": 0, "size": 5}, *ANSWER["lots"]]), 20 / 22),
    ],
)
def test_each_leaf_counts_once(actual: Json, score: float) -> None:
    assert compare(ANSWER, actual) == pytest.approx(score)


def test_whole_values_are_compared_and_never_a_part() -> None:
    expected = {"message": "ok", "data": 1}
    assert compare(expected, {"message": "ok"}) == pytest.approx(2 / 3)
    assert compare(expected, {"message": "ok", "data": 2}) == 0.5


def test_lists_are_aligned_in_order() -> None:
    assert compare([1, 2, 3, 4], [0, 1, 2, 3, 4]) == pytest.approx(8 / 9)
    assert compare([1, 2, 3, 4], [1, 2, 4]) == pytest.approx(6 / 7)
    assert compare([1, 2, 3], [3, 2, 1]) == pytest.approx(1 / 3)
    assert compare([1, 1, 1], [1]) == 0.5


def test_prose_agrees_by_words_and_by_numbers() -> None:
    week = "The week of the year is 40, and the isoWeek of the year is 40."
    assert compare(week, week.replace("40", "39")) == 0.0
    assert 0 < compare(week, week.replace("40.", "39.")) < compare(week, "In " + week) < 1
    assert compare(week, "In " + week) <= 0.9
    jumbled = " ".join(sorted(week.split()))
    assert compare(week, jumbled) == pytest.approx(0.9)


# --- decoding --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("82", 82),
        ("2073600.0", 2073600.0),
        ('"text"', "text"),
        ("plain text", "plain text"),
        ('{"a": 1}', {"a": 1}),
        ("{'a': None, 'b': (1, 2)}", {"a": None, "b": [1, 2]}),
        ("{'a', }", ["a"]),
        ("[b'bytes']", "[b'bytes']"),
        ("[(1.0 - 0.7*I, 1.0)]", "[(1.0 - 0.7*I, 1.0)]"),
        ("[__import__('os')]", "[__import__('os')]"),
        ("[unclosed", "[unclosed"),
        ("  ", None),
        ("null", None),
        ("007", "007"),
    ],
)
def test_a_text_stands_for_json_a_python_literal_or_itself(text: str, value: Json) -> None:
    assert decode(text) == value


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{'a':" * 10_000, "9" * 100_000, "(" * 500, "-" * 9]
)
def test_hostile_texts_stay_texts(text: str) -> None:
    assert decode(text) == text


# --- bounds ----------------------------------------------------------------------------------


def nested(depth: int, leaf: Json) -> Json:
    value = leaf
    for _ in range(depth):
        value = [value]
    return value


def test_values_too_deep_or_too_large_agree_as_a_whole_or_not_at_all() -> None:
    assert compare(nested(50_000, 1), nested(50_000, 1)) == 1.0
    assert compare(nested(50_000, 1), nested(50_000, 2)) == 0.0
    large = list(range(MAX_NODES))
    assert compare(large, [float(number) for number in large]) == 1.0
    assert compare(large, [*large[:-1], -1]) == 0.0
    assert not same({"a": [1, {"b": 2}]}, {"a": [1, {"c": 2}]})


def test_long_lists_that_share_nothing_are_compared_place_by_place() -> None:
    assert compare([0] * 40_000, [1] * 40_000) == 0.0
    assert compare(list(range(20_000)), [0, -1, *range(2, 20_000)]) == 1 - 1 / 20_000
    rows = [{"id": index, "name": f"row {index}"} for index in range(2_000)]
    assert compare(rows, rows[1:]) == pytest.approx(3998 / 3999)


def test_lists_inside_lists_are_compared_once_for_each_pair() -> None:
    def bush(depth: int, leaf: int) -> Json:
        return [bush(depth - 1, leaf), leaf, bush(depth - 1, leaf + 1)] if depth else leaf

    assert 0 < compare(bush(9, 0), bush(9, 1)) < 1
    assert compare(nested(50, 1), nested(50, 2)) == 0.0


# --- properties over random values -----------------------------------------------------------


def random_value(dice: random.Random, depth: int = 3) -> Json:
    kind = dice.randrange(7 if depth else 5)
    if kind == 5:
        return [random_value(dice, depth - 1) for _ in range(dice.randrange(4))]
    if kind == 6:
        return {
            key: random_value(dice, depth - 1) for key in dice.sample("abcd", dice.randrange(4))
        }
    return [dice.randrange(5), dice.random(), dice.choice("xyz"), dice.random() < 0.5, None][kind]


def leaves(value: Json) -> int:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(leaves, parts)) or 1


def spoil(dice: random.Random, value: Json) -> Json:
    """The value with one leaf replaced by one that occurs nowhere else."""
    if isinstance(value, dict) and value:
        key = dice.choice(list(value))
        return {**value, key: spoil(dice, value[key])}
    if isinstance(value, list) and value:
        index = dice.randrange(len(value))
        return [*value[:index], spoil(dice, value[index]), *value[index + 1 :]]
    return f"spoiled {dice.random()}"


@pytest.mark.parametrize("seed", range(60))
def test_agreement_is_symmetric_bounded_and_falls_with_every_spoiled_leaf(seed: int) -> None:
    dice = random.Random(seed)
    value, other = random_value(dice), random_value(dice)
    assert compare(value, value) == 1.0
    assert compare(value, json.loads(json.dumps(value))) == 1.0
    assert 0.0 <= compare(value, other) <= 1.0
    assert compare(value, other) == pytest.approx(compare(other, value))
    spoiled, last = value, 1.0
    for count in range(1, 4):
        spoiled = spoil(dice, spoiled)
        score = compare(value, spoiled)
        assert score <= last
        last = score
        if count == 1:
            assert score == pytest.approx(1 - 1 / leaves(value))


# --- answers ---------------------------------------------------------------------------------


def unit_test(expected: str, expects_error: bool = False) -> UnitTest:
    return UnitTest(tool="t", arguments={}, expected=expected, expects_error=expects_error)


NEGATIVE = unit_test("Error executing tool t: unknown SKU", expects_error=True)
POSITIVE = unit_test('{"ok": true, "errors": []}')


def answer(value: Json, *texts: str, is_error: bool = False) -> ToolAnswer:
    """An answer of this value, and of these text blocks beside it."""
    blocks: list[dict[str, Json]] = [{"type": "text", "text": text} for text in texts]
    return ToolAnswer(value, "\n".join(texts), is_error, blocks)


def test_a_negative_test_is_passed_by_any_error_and_by_nothing_else() -> None:
    assert judge_answer(NEGATIVE, answer("another text", is_error=True)) == 1.0
    assert judge_answer(NEGATIVE, answer({"error": "no such SKU"})) == 1.0
    assert judge_answer(NEGATIVE, answer({"success": False})) == 1.0
    assert judge_answer(NEGATIVE, answer(5, "5")) == 0.0
    assert judge_answer(NEGATIVE, answer(NEGATIVE.expected[6:])) == 0.0


def test_an_error_counts_as_an_object_and_as_its_text() -> None:
    told = '{"error": "no such SKU"}'
    for value in (told, json.loads(told)):
        assert judge_answer(unit_test(told, expects_error=True), answer(value, told)) == 1.0
        assert judge_answer(POSITIVE, answer(value, told)) == 0.0


def test_a_positive_test_is_failed_by_an_error_whatever_its_words() -> None:
    assert judge_answer(POSITIVE, answer({"ok": True, "errors": []})) == 1.0
    assert judge_answer(POSITIVE, answer({"ok": True, "errors": []}, is_error=True)) == 0.0
    unknown = "Unknown tool: t"
    assert judge_answer(unit_test(unknown + " s"), answer(unknown, unknown)) == 0.0


def test_words_like_failed_in_an_answer_are_no_error() -> None:
    text = "3 passed, 1 failed with an exception"
    assert judge_answer(unit_test(text), answer(text, text)) == 1.0


def test_an_answer_counts_structured_or_as_text_whichever_is_nearer() -> None:
    listed = answer([1, 2, 3], "1", "2", "3")
    assert judge_answer(unit_test("1\n2\n3"), listed) == 1.0
    assert judge_answer(unit_test("[1, 2, 3]"), listed) == 1.0
    assert judge_answer(unit_test("5"), answer(7, "7")) == 0.0
    nested = answer([["a b"], [{"n": 1.0}]], "a b", '{"n": 1}')
    assert readings(nested) == [[["a b"], [{"n": 1.0}]], 'a b\n{"n": 1}']


def test_who_says_two_different_things_gets_no_second_guess() -> None:
    for expected, score in (("true", 0.0), ("false", 1.0)):
        assert judge_answer(unit_test(expected), answer(False, "true")) == score
    assert readings(answer({"n": 3, "square": 9}, '{"n": 3, "square": 1}')) == [
        {"n": 3, "square": 9}
    ]


def test_soft_is_the_mean_and_hard_the_share_of_whole_answers() -> None:
    assert soft_and_hard([1.0, 0.9, 0.0, 0.5]) == (0.6, 0.25)
    assert soft_and_hard([1.0]) == (1.0, 1.0)
    with pytest.raises(AssertionError, match="no unit tests"):
        soft_and_hard([])


def test_one_swapped_value_among_many_fails_hard() -> None:
    rows = [{"id": index} for index in range(10_000)]
    swapped = [rows[1], rows[0], *rows[2:]]
    soft, hard = soft_and_hard([compare(rows, swapped)])
    assert soft > 0.999
    assert hard == 0.0


def test_arguments_get_the_live_names_and_none_is_dropped() -> None:
    call = {"sku": "A", "count": 1, "unknown": None, "": {}}
    renamed = rename_arguments(call, {"sku": "item", "count": "quantity", "absent": "x"})
    assert renamed == {"item": "A", "quantity": 1, "unknown": None, "": {}}
    assert call == {"sku": "A", "count": 1, "unknown": None, "": {}}


def test_an_unmatched_argument_gives_way_to_a_matched_one_of_its_name() -> None:
    assert rename_arguments({"a": 1, "b": 2}, {"a": "b"}) == {"b": 1}
    assert rename_arguments({"a": 1, "b": 2}, {"a": "b", "b": "a"}) == {"b": 1, "a": 2}


def test_marks_heaped_on_one_letter_take_no_time() -> None:
    heap = "a" + "\u0315\u0300" * 500_000  # composing it would take hours
    assert compare("a", heap) == 0.0
    assert compare(heap, heap) == 1.0
    assert compare("cafe\u0301", "caf\u00e9") == 1.0
