"""Texts and programs as sets of n-gram hashes, and MinHash signatures of such sets.

Both searches of the corpus stand on them: near duplicates among samples, and overlap with the
benchmark. A program is compared by its shape: comments, docstrings and layout are taken out, and
the names that it defines itself become one name, so renaming and reformatting change nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import xxhash
from datasketch import MinHash
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]  # [num_distinct], sorted
Signature = NDArray[np.uint32]  # [NUM_PERMUTATIONS]

WORDS_PER_SHINGLE = 5
TOKENS_PER_CODE_SHINGLE = 8
NUM_PERMUTATIONS = 64
MINHASH_SCHEME = "affine32"
# With 16 bands of 4 values a pair of Jaccard 0.8 is looked at with probability 0.9998, one of 0.3
# with 0.12; whoever was looked at is judged by the whole signature.
NUM_BANDS = 16
NEAR_DUPLICATE = 0.8  # estimated Jaccard; its standard error at 64 permutations is 0.05
WORD = re.compile(r"\w+|[^\w\s]")
MULTIPLIER = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: spreads consecutive positions
OWN_NAME = "v"
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
NOTHING: Hashes = np.zeros(0, dtype=np.uint64)


def text_shingles(text: str) -> Hashes:
    """Hashes of all runs of five words, case folded."""
    return _shingles(WORD.findall(text.lower()), WORDS_PER_SHINGLE)


def code_shingles(code: str) -> Hashes:
    """Hashes of all runs of eight tokens of a normalised program; of its words if it is none."""
    return _shingles(WORD.findall(normalised(code)), TOKENS_PER_CODE_SHINGLE)


def normalised(code: str) -> str:
    """The program without comments, docstrings, layout and the names that it chose itself."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return code
    own, attributes = _own_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in own:
            node.id = OWN_NAME
        elif isinstance(node, ast.Attribute) and node.attr in attributes:
            node.attr = OWN_NAME
        elif isinstance(node, ast.arg | ast.keyword) and node.arg in own:
            node.arg = OWN_NAME
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            node.name = OWN_NAME
            _drop_docstring(node)
        elif isinstance(node, ast.Module):
            _drop_docstring(node)
    return ast.unparse(tree)


def contained(part: Hashes, whole: Hashes) -> float:
    """Share of the smaller set that is in the other, 0..1; 0 where one is empty."""
    smaller, larger = sorted((part, whole), key=len)
    return float(shared(smaller, larger).mean()) if len(smaller) else 0.0


def shared(hashes: Hashes, known: Hashes) -> NDArray[np.bool_]:
    """Which of `hashes` are in `known`: bool [len(hashes)]. Cheap where `known` is large."""
    if not len(known):
        return np.zeros(len(hashes), dtype=np.bool_)
    places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    found: NDArray[np.bool_] = known[places] == hashes
    return found


def union(sets: Iterable[Hashes]) -> Hashes:
    parts = list(sets)
    return np.unique(np.concatenate(parts)) if parts else NOTHING


def signature(hashes: Hashes) -> Signature:
    """MinHash signature of a set. All empty sets share one."""
    minhash = MinHash(
        NUM_PERMUTATIONS, hashfunc=int, permutations=_permutations(), scheme=MINHASH_SCHEME
    )
    minhash.update_batch((hashes & np.uint64(0xFFFFFFFF)).tolist())
    return np.asarray(minhash.hashvalues, dtype=np.uint32)


def near_duplicates(
    signatures: NDArray[np.uint32], threshold: float = NEAR_DUPLICATE
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For each row the earlier row that it nearly repeats, or -1, and the estimated Jaccard.

    signatures: uint32 [n, NUM_PERMUTATIONS]. Each band sorts the rows by its values; a row is
    compared with the first row of its bucket and with the one before it. Time n log n, memory
    beside the input some 40 bytes a row.
    """
    n = len(signatures)
    original = np.full(n, -1, dtype=np.int64)
    similarity = np.zeros(n, dtype=np.float32)
    rows_per_band = NUM_PERMUTATIONS // NUM_BANDS
    for band in range(NUM_BANDS):
        values = np.ascontiguousarray(
            signatures[:, band * rows_per_band : (band + 1) * rows_per_band]
        )
        keys = np.zeros(n, dtype=np.uint64)
        for column in range(rows_per_band):
            keys = (keys ^ values[:, column]) * np.uint64(MULTIPLIER)
            keys ^= keys >> np.uint64(29)
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if n else order
        first = np.repeat(order[starts], np.diff(np.r_[starts, n]))
        before = np.r_[order[:1], order[:-1]]
        for candidate in (first, np.where(first == order, order, before)):
            later = np.flatnonzero(candidate != order)
            _compare(signatures, order[later], candidate[later], threshold, original, similarity)
    return original, similarity


def _compare(
    signatures: NDArray[np.uint32],
    rows: NDArray[np.int64],
    candidates: NDArray[np.int64],
    threshold: float,
    original: NDArray[np.int64],
    similarity: NDArray[np.float32],
) -> None:
    for start in range(0, len(rows), 65_536):  # bounds the memory of the comparison
        row, candidate = rows[start : start + 65_536], candidates[start : start + 65_536]
        equal = (signatures[row] == signatures[candidate]).mean(axis=1, dtype=np.float32)
        better = (equal >= threshold) & (equal > similarity[row])
        original[row[better]] = candidate[better]
        similarity[row[better]] = equal[better]


def _shingles(words: Sequence[str], width: int) -> Hashes:
    if not words:
        return NOTHING
    hashes = np.fromiter(map(_word_hash, words), dtype=np.uint64, count=len(words))
    width = min(width, len(hashes))
    total = np.zeros(len(hashes) - width + 1, dtype=np.uint64)
    for offset in range(width):
        total = total * np.uint64(MULTIPLIER) + hashes[offset : offset + len(total)]
    return np.unique(total ^ (total >> np.uint64(32)))


@lru_cache(maxsize=1 << 17)
def _word_hash(word: str) -> int:
    return int(xxhash.xxh3_64_intdigest(word.encode()))


@lru_cache(maxsize=1)
def _permutations() -> NDArray[np.uint32]:
    return np.asarray(MinHash(NUM_PERMUTATIONS, scheme=MINHASH_SCHEME).permutations)


def _own_names(tree: ast.Module) -> tuple[set[str], set[str]]:
    """What the program names itself, imports excepted: its variables, arguments, functions and
    classes; and apart from them the attributes and methods of its objects."""
    own: set[str] = set()
    attributes: set[str] = set()
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            attributes.add(node.attr)
        elif isinstance(node, ast.arg):
            own.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            own.add(node.name)
            if isinstance(node, ast.ClassDef):
                attributes |= {inner.name for inner in node.body if isinstance(inner, FUNCTION)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            imported.update(alias.asname or alias.name for alias in node.names)
    return own - imported, attributes


def _drop_docstring(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
) -> None:
    first = node.body[0] if node.body else None
    if (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        node.body = node.body[1:] or [ast.Pass()]
