# ruff: noqa
"""Answers a call with bytes that no decoder likes, the kind being the tool's name."""

import sys

HEAD = b'{"jsonrpc": "2.0", "id": %d, "result": {"content": [], "structuredContent": {"x": '
TAIL = b"}}}\n"
BODIES = {
    "huge": b'"' + b"x" * (8 << 20) + b'"',
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep_but_decodable": b"[" * 300 + b"]" * 300,
    "deep_objects": b'{"a":' * 900 + b"1" + b"}" * 900,
    "bad_utf8": b'"\xff\xfe"',
    "nan": b"NaN",
    "infinity": b"-Infinity",
    "overflow": b"1e999",
    "digits": b"1" * 100_000,
    "surrogate": b'"\\ud800"',
    "cut_short": b'"',
    "no_object": b"1}}, 3, {{",
}


def call(request):
    body = BODIES[request["params"]["name"]]
    sys.stdout.buffer.write(HEAD % request["id"] + body + TAIL)
    sys.stdout.buffer.flush()


serve(call=call)
