# ruff: noqa
"""Tool lists that are too much. The kind is the name in KIND, put before this program."""

PAGES = iter(range(10**9))


def tools(request):
    page = next(PAGES)
    if KIND == "same_cursor":
        answer(request, {"tools": [tool(f"t{page}")], "nextCursor": "again"})
    elif KIND == "new_cursors":
        answer(request, {"tools": [tool(f"t{page}")], "nextCursor": str(page)})
    elif KIND == "empty_pages":
        answer(request, {"tools": [], "nextCursor": str(page)})
    elif KIND == "many":
        answer(request, {"tools": [{"name": str(i), "inputSchema": {}} for i in range(100_000)]})
    elif KIND == "many_pages":
        answer(request, {"tools": [tool(str(i)) for i in range(300)], "nextCursor": str(page)})
    elif KIND == "description":
        answer(request, {"tools": [tool("t", "x" * (10 << 20))]})
    elif KIND == "large_pages":
        answer(request, {"tools": [tool("t", "x" * 600_000)], "nextCursor": str(page)})
    elif KIND == "icons":
        answer(request, {"tools": [{**tool("t"), "icons": [{}] * 200_000}]})
    elif KIND == "names":
        names = [
            "act",
            "act",
            "../../etc/passwd",
            "a\x00b\x1b[2J\n",
            "",
            "\u202eevil",
            "x" * 10_000,
        ]
        answer(request, {"tools": [tool(name) for name in names]})
    elif KIND == "three_pages":
        more = {"nextCursor": f"page {page + 1}"} if page < 2 else {}
        answer(request, {"tools": [tool(f"t{page}")], **more})
    elif KIND == "changing":
        answer(request, {"tools": [tool(f"tool_{page}")]})
    elif KIND == "no_schema":
        answer(request, {"tools": [{"name": "t"}]})


serve(tools=tools)
