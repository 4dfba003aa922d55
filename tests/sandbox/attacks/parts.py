# ruff: noqa
"""Messages of nearly a megabyte in which nothing is what the protocol asks for."""

MANY = [{}] * 200_000


def call(request):
    name = request["params"]["name"]
    if name == "blocks":
        answer(request, {"content": MANY})
    elif name == "audience":
        block = {"type": "text", "text": "", "annotations": {"audience": [1] * 250_000}}
        answer(request, {"content": [block]})
    elif name == "request":
        params = {"messages": MANY, "maxTokens": 1}
        send({"jsonrpc": "2.0", "id": 1, "method": "sampling/createMessage", "params": params})
        answer(request, text("ok"))
    elif name == "free":
        answer(request, {"content": [], "structuredContent": {"items": MANY}})


serve(call=call)
