# ruff: noqa
"""Answers what nobody asked, twice, or under another number, before the true answer."""


def call(request):
    for number in (request["id"], request["id"], 999_999, "1", request["id"] - 1, None):
        send({"jsonrpc": "2.0", "id": number, "result": text("true" if number else "false")})


def only_wrong(request):
    for number in (request["id"] + 1, str(request["id"]), float(request["id"]) + 0.5, True, [1]):
        send({"jsonrpc": "2.0", "id": number, "result": text("false")})


serve(
    call=lambda request: {"act": call, "only_wrong": only_wrong}[request["params"]["name"]](request)
)
