# ruff: noqa
"""Valid JSON, invalid protocol, the kind being the tool's name."""

RESULTS = {
    "content_is_text": {"content": "x"},
    "content_is_missing": {"structuredContent": 3},
    "block_without_type": {"content": [{"text": "x"}]},
    "result_is_list": [],
    "result_is_null": None,
}


def call(request):
    name = request["params"]["name"]
    if name == "no_version":
        send({"jsonrpc": "1.0", "id": request["id"], "result": text("x")})
    elif name == "error_without_code":
        send({"jsonrpc": "2.0", "id": request["id"], "error": {"message": "x"}})
    elif name == "chatter":
        send({"jsonrpc": "2.0", "method": "notifications/nonsense"})
        send({"jsonrpc": "2.0", "id": 7, "method": "roots/list"})
        send({"jsonrpc": "2.0", "id": 8, "method": "steal/everything", "params": {}})
        write("Processing request...\n\nnull\n[]\n")
        answer(request, text("ok"))
    else:
        answer(request, RESULTS[name])


serve(call=call)
