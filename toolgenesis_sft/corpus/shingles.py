"""Texts and programs as sets of n-gram hashes, and MinHash signatures of such sets.

Both searches of the corpus stand on them: near duplicates among samples, and overlap with the
benchmark. A program is compared by its shape: comments, docstrings and layout are taken out, and
the names that it defines itself become one name, so renaming and reformatting change nothing.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from datasketch import MinHash
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]  # [num_distinct], sorted
Signatures = NDArray[np.uint32]  # [num_sets, NUM_PERMUTATIONS]

WORDS_PER_SHINGLE = 5
TOKENS_PER_CODE_SHINGLE = 8
NUM_PERMUTATIONS = 64
MINHASH_SCHEME = "affine32"
MURMUR_FINALISER = ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1))  # (shift, factor)
EMPTY_SIGNATURE = 0xFFFFFFFF
# With 16 bands of 4 values a pair of Jaccard 0.8 is looked at with probability 0.9998, one of 0.3
# with 0.12; whoever was looked at is judged by the whole signature.
NUM_BANDS = 16
NEAR_DUPLICATE = 0.8  # estimated Jaccard; its standard error at 64 permutations is 0.05
MULTIPLIER = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: spreads consecutive positions
INVERSE = pow(MULTIPLIER, -1, 1 << 64)
SPACE, LETTER, SIGN = 0, 1, 2  # what a character is to a text of words
CHARACTERS_AT_ONCE = 1 << 17  # of the texts hashed together: arrays of a megabyte
HASHES_AT_ONCE = 1 << 11  # arrays of half a megabyte, which a processor's cache holds
OWN_NAME = "v"
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
NOTHING: Hashes = np.zeros(0, dtype=np.uint64)


def text_shingles(texts: Sequence[str]) -> list[Hashes]:
    """Of each text the hashes of all runs of five words, case folded."""
    return _shingles([text.lower() for text in texts], WORDS_PER_SHINGLE)


def code_shingles(code: str) -> Hashes:
    """Hashes of all runs of eight tokens of a normalised program; of its words if it is none."""
    [hashes] = _shingles([normalised(code)], TOKENS_PER_CODE_SHINGLE)
    return hashes


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


def signatures(sets: Sequence[Hashes]) -> Signatures:
    """MinHash signatures: what datasketch's MinHash.update_batch gives for the lower 32 bits of
    each set, without an object and a list for each. All empty sets share one."""
    scale, shift = _permutations()
    found = np.full((len(sets), NUM_PERMUTATIONS), EMPTY_SIGNATURE, dtype=np.uint32)
    owners = np.repeat(np.arange(len(sets)), [len(hashes) for hashes in sets])
    mixed = np.concatenate([NOTHING, *sets]).astype(np.uint32)
    for bits, factor in MURMUR_FINALISER:
        mixed ^= mixed >> np.uint32(bits)
        mixed *= np.uint32(factor)
    for start in range(0, len(mixed), HASHES_AT_ONCE):
        part = slice(start, start + HASHES_AT_ONCE)
        values = mixed[part, None] * scale
        values += shift
        rows, firsts = np.unique(owners[part], return_index=True)
        least = np.minimum.reduceat(values, firsts, axis=0)
        found[rows] = np.minimum(found[rows], least)  # a large set lies in several parts
    return found


def near_duplicates(
    signatures: Signatures, threshold: float = NEAR_DUPLICATE
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For each row the earlier row that it nearly repeats, or -1, and the estimated Jaccard.

    Each band sorts the rows by its values; a row is
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
    signatures: Signatures,
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


def _shingles(texts: Sequence[str], width: int) -> list[Hashes]:
    """Of each text the distinct hashes of its runs of `width` words; shorter texts are one run."""
    shingles: list[Hashes] = []
    for group in _groups(texts):
        words, bounds = _word_hashes(group)
        runs = _runs(words, width)
        for start, stop in pairwise(bounds):
            if stop - start >= width:
                shingles.append(_distinct(runs[start : stop - width + 1]))
            else:
                shingles.append(_runs(words[start:stop], stop - start) if stop > start else NOTHING)
    return shingles


def _groups(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Neighbouring texts that are hashed together: one large array costs less than many small."""
    start = num_characters = 0
    for number, text in enumerate(texts):
        if number > start and num_characters + len(text) > CHARACTERS_AT_ONCE:
            yield texts[start:number]
            start, num_characters = number, 0
        num_characters += len(text)
    if start < len(texts):
        yield texts[start:]


def _word_hashes(texts: Sequence[str]) -> tuple[Hashes, list[int]]:
    """A hash of each word and each sign, in order; text i has those of bounds[i] to bounds[i + 1].

    A word's hash is the polynomial of its characters, taken from sums over the whole array.
    """
    whole = "\n".join(texts) + "\n"
    points = np.frombuffer(whole.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    kinds = _kinds_of_characters()[points]
    is_letter, is_sign = kinds == LETTER, kinds == SIGN
    starts = np.flatnonzero(is_sign | (is_letter & ~np.r_[False, is_letter[:-1]]))
    stops = np.flatnonzero(is_sign | (is_letter & ~np.r_[is_letter[1:], False])) + 1
    powers = np.full(len(points), MULTIPLIER, dtype=np.uint64)
    sums = np.r_[np.uint64(0), np.cumsum(points * np.cumprod(powers), dtype=np.uint64)]
    powers[:] = INVERSE
    hashes = (sums[stops] - sums[starts]) * np.cumprod(powers)[starts]
    hashes ^= hashes >> np.uint64(29)
    hashes *= np.uint64(MULTIPLIER)
    hashes ^= hashes >> np.uint64(32)
    ends_of_texts = np.cumsum([len(text) + 1 for text in texts])
    return hashes, [0, *np.searchsorted(starts, ends_of_texts).tolist()]


def _runs(words: Hashes, width: int) -> Hashes:
    """A hash of each `width` neighbours; none where there are fewer."""
    total = np.zeros(max(0, len(words) - width + 1), dtype=np.uint64)
    for offset in range(width):
        total *= np.uint64(MULTIPLIER)
        total += words[offset : offset + len(total)]
    return total ^ (total >> np.uint64(32))


def _distinct(hashes: Hashes) -> Hashes:
    ordered = np.sort(hashes)
    is_first = np.ones(len(ordered), dtype=np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    return ordered[is_first]


@lru_cache(maxsize=1)
def _kinds_of_characters() -> NDArray[np.uint8]:
    """SPACE, LETTER or SIGN of every code point, as `re` sees white space and words."""
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    kinds = np.full(len(everything), SIGN, dtype=np.uint8)
    for pattern, kind in ((r"\s+", SPACE), (r"\w+", LETTER)):
        for found in re.finditer(pattern, everything):
            kinds[found.start() : found.end()] = kind
    return kinds


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
