"""Converts identifiers between the usual naming styles of programming languages."""

import re
from typing import Literal

from mcp.server.fastmcp import FastMCP

mcp = FastMCP("Case Converter")


@mcp.tool()
def split_words(text: str) -> list[str]:
    """The lower-case words of an identifier or phrase."""
    # A run of capitals is an acronym, except that its last letter may start a word: HTTPServer.
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", text)
    if not words:
        raise ValueError("text has no letters or digits")
    return [word.lower() for word in words]


@mcp.tool()
def convert_case(text: str, style: Literal["snake", "upper", "kebab", "camel", "pascal"]) -> str:
    """The same words in another style; upper is SNAKE in capitals."""
    words = split_words(text)
    if style == "snake":
        return "_".join(words)
    if style == "upper":
        return "_".join(words).upper()
    if style == "kebab":
        return "-".join(words)
    joined = "".join(word.capitalize() for word in words)
    return joined if style == "pascal" else words[0] + joined[len(words[0]) :]


@mcp.tool()
def same_identifier(first: str, second: str) -> bool:
    """Whether two identifiers are the same words, whatever their style."""
    return split_words(first) == split_words(second)


if __name__ == "__main__":
    mcp.run()
