# ruff: noqa
"""The protocol by hand, put before the servers here that break it: `serve(tools, call)`."""

import json
import sys


def write(text):
    sys.stdout.write(text)
    sys.stdout.flush()


def send(message):
    write(json.dumps(message) + "\n")


def answer(request, result):
    send({"jsonrpc": "2.0", "id": request["id"], "result": result})


def hello(request):
    answer(
        request,
        {
            "protocolVersion": "2025-06-18",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "raw", "version": "1"},
        },
    )


def tool(name, description=""):
    return {"name": name, "description": description, "inputSchema": {"type": "object"}}


def text(value):
    return {"content": [{"type": "text", "text": value}]}


def list_one(request):
    answer(request, {"tools": [tool("act")]})


def serve(initialize=hello, tools=list_one, call=lambda request: answer(request, text("ok"))):
    handlers = {"initialize": initialize, "tools/list": tools, "tools/call": call}
    for line in sys.stdin:
        request = json.loads(line)
        if "id" in request and "method" in request:
            handlers[request["method"]](request)
