"""Rows of JSON text: one a line, or the items of one list; gzip is unpacked on the way."""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from toolgenesis_sft.errors import UserError

GZIP_MAGIC = b"\x1f\x8b"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
HEAD_BYTES = 4096  # enough to pass the blank lines before a list
CHARS_AT_ONCE = 1 << 20
BETWEEN_ITEMS = re.compile(r"[\s,]*")


def file_rows(path: Path) -> Iterator[tuple[str, bytes]]:
    """(`line 7` or `item 7`, JSON text) of each row. Raises UserError where the file breaks off."""
    try:
        with _opened(path) as file:
            yield from _items(path, file) if is_list(path) else _lines(file)
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise UserError(
            "source", str(path), f"cannot be read to its end ({error})", "mend it"
        ) from error


def is_list(path: Path) -> bool:
    """Whether a file holds one JSON list, not a row a line."""
    with _opened(path) as file:
        return file.read(HEAD_BYTES).removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"[")


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        is_packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    return cast(BinaryIO, gzip.open(path)) if is_packed else path.open("rb")


def _lines(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            yield f"line {number}", line


def _items(path: Path, file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """The items of one list, which is never held whole."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig")
    decoder, number = json.JSONDecoder(), 0
    buffer = text.read(max(CHARS_AT_ONCE, HEAD_BYTES)).lstrip().removeprefix("[")
    start = 0
    while True:
        gap = BETWEEN_ITEMS.match(buffer, start)
        assert gap is not None, "it matches nothing, too"
        start = gap.end()
        if buffer.startswith("]", start):
            break
        try:
            _, end = decoder.raw_decode(buffer, start)
        except (ValueError, RecursionError) as error:
            more = text.read(max(CHARS_AT_ONCE, len(buffer) - start))
            if not more:
                raise UserError(
                    "source",
                    str(path),
                    f"item {number + 1} of its list is broken JSON ({error})",
                    "mend it; in a file of one row a line only the broken rows would go",
                ) from error
            buffer, start = buffer[start:] + more, 0
        else:
            number += 1
            yield f"item {number}", buffer[start:end].encode()
            start = end
    if (buffer[start + 1 :] + text.read(CHARS_AT_ONCE)).strip():
        raise UserError("source", str(path), "goes on behind its list", "mend it")
