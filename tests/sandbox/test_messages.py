"""JSON from servers is decoded within bounds or refused as ValueError."""

from __future__ import annotations

import pytest

from toolgenesis_sft.sandbox.messages import decode, decode_text, has_more_parts, show


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"x",
        b"NaN",
        b"[-Infinity]",
        b"1e400",
        b"9" * 5000,
        b'"\xff"',
        b'"\\ud800"',
        b'{"\\uDC00": 1}',
        b"[" * 100_000,
        b"[" * 200 + b"]" * 200,
        b'{"a":' * 200 + b"1" + b"}" * 200,
    ],
    ids=lambda line: repr(line[:12]),
)
def test_what_harms_a_later_reader_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode(line)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b"[1, 2.5, null, true]", [1, 2.5, None, True]),
        ('{"é": "\\ud83d\\ude00"}'.encode(), {"é": "\U0001f600"}),
        (b'"\\\\ud800"', "\\ud800"),
        (b"[" * 128 + b"1" + b"]" * 128, None),
        (b"[[1]," + b"[1]," * 5000 + b"[1]]", None),
    ],
)
def test_what_is_sound_is_decoded(line: bytes, value: object) -> None:
    decoded = decode(line)
    assert value is None or decoded == value


def test_depth_is_counted_in_levels_and_not_in_brackets() -> None:
    assert decode(b"[[[1]]]", max_depth=3) == [[[1]]]
    with pytest.raises(ValueError, match="deeper than 2"):
        decode(b"[[[1]]]", max_depth=2)
    assert decode('"[[[[[["', max_depth=2) == "[[[[[["


def test_text_that_is_no_sound_json_stays_text() -> None:
    assert decode_text('{"a": 1}') == {"a": 1}
    assert decode_text('{"a": NaN}') == '{"a": NaN}'
    assert decode_text("plain") == "plain"


def test_faults_are_shown_printable_short_and_the_same_in_every_run() -> None:
    assert show(b"a\x1b[2J\xff\n") == "a?[2J\N{REPLACEMENT CHARACTER}?"
    assert show("<object at 0x7f12ab34cd56>") == "<object at 0x..>"
    assert len(show("x" * 1000)) == 300
    show("\ud800").encode()


def test_values_in_free_form_members_are_not_counted() -> None:
    message = {"content": [{"type": "text"}] * 3, "structuredContent": {"a": [1] * 50}}
    assert has_more_parts(message, 7)
    assert not has_more_parts(message, 8)
