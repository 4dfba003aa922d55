# ruff: noqa
"""Answers with a valid message, some bytes of it changed at random; then with a valid one."""

import random
import sys

chance = random.Random(SEED)


def call(request):
    valid = json.dumps(
        {
            "jsonrpc": "2.0",
            "id": request["id"],
            "result": {
                "content": [{"type": "text", "text": "ok"}],
                "structuredContent": {"a": [1, 2.5, None]},
                "isError": False,
            },
        }
    ).encode()
    message = bytearray(valid)
    for _ in range(chance.randrange(1, 6)):
        place = chance.randrange(len(message))
        what = chance.randrange(4)
        if what == 0:
            message[place] = chance.randrange(256)
        elif what == 1:
            del message[place : place + chance.randrange(1, 30)]
        elif what == 2:
            message[place:place] = chance.choice(
                [b"null", b"[]", b"{}", b"-", b"1e999", b"\n", b'"']
            )
        else:
            message[place:place] = message[: chance.randrange(len(message))]
    sys.stdout.buffer.write(bytes(message) + b"\n" + valid + b"\n")
    sys.stdout.buffer.flush()


serve(call=call)
