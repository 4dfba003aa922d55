"""Near duplicates among many, and programs compared by their shape."""

from __future__ import annotations

import re

import numpy as np
from datasketch import MinHash

from tests.corpus.conftest import MINI
from toolgenesis_sft.corpus.shingles import (
    CHARACTERS_AT_ONCE,
    MINHASH_SCHEME,
    NUM_PERMUTATIONS,
    _word_hashes,
    code_shingles,
    contained,
    near_duplicates,
    normalised,
    shared,
    signatures,
    text_shingles,
)

PROGRAM = '''
"""Counts things."""
import math
from fastmcp import FastMCP

mcp = FastMCP("Counter")


@mcp.tool()
def count_items(items: list[str], scale: float = 1.0) -> dict:
    """Count them."""
    totals = {}
    for item in items:
        totals[item] = totals.get(item, 0) + 1  # one more
    return {name: math.floor(value * scale) for name, value in totals.items()}
'''
RENAMED = '''
import math
from fastmcp import FastMCP
app = FastMCP("Counter")
@app.tool()
def tally(words: list[str],
          factor: float = 1.0) -> dict:
  """A different text
  altogether."""
  seen = {}
  for word in words:
      seen[word] = (seen.get(word, 0) + 1)
  return {k: math.floor(v * factor) for k, v in seen.items()}
'''


def test_renaming_and_reformatting_change_nothing() -> None:
    assert normalised(PROGRAM) == normalised(RENAMED)
    assert contained(code_shingles(PROGRAM), code_shingles(RENAMED)) == 1.0


def test_names_of_libraries_and_builtins_stay() -> None:
    text = normalised(PROGRAM)
    assert "math.floor" in text
    assert "dict" in text
    assert "totals" not in text


def test_different_servers_share_little() -> None:
    sets = [code_shingles(p.read_text()) for p in sorted((MINI / "servers").glob("*.py"))]
    shares = [contained(a, b) for n, a in enumerate(sets) for b in sets[:n]]
    assert max(shares) < 0.35


def test_text_that_is_no_program_is_compared_by_its_words() -> None:
    assert contained(code_shingles("def broken(: a b c d e f g"), code_shingles("")) == 0.0
    assert len(code_shingles("def broken(: a b c d e f g")) > 0


def test_shared_finds_exactly_the_members() -> None:
    known = np.array([2, 5, 9], dtype=np.uint64)
    some = np.array([1, 2, 9, 10], dtype=np.uint64)
    assert shared(some, known).tolist() == [False, True, True, False]
    assert not shared(some, known[:0]).any()


def words(seed: int, count: int = 200) -> list[str]:
    rng = np.random.default_rng(seed)
    return [f"w{number}" for number in rng.integers(0, 5000, count)]


def test_near_duplicates_are_found_among_thousands_and_nothing_else() -> None:
    texts = [" ".join(words(seed)) for seed in range(3000)]
    changed = words(17)
    changed[100] = "another"  # 5 of 196 word runs differ
    texts += [" ".join(changed), texts[2999] + " and a little more"]
    theirs = signatures(text_shingles(texts))
    originals, similarity = near_duplicates(theirs)
    assert np.flatnonzero(originals >= 0).tolist() == [3000, 3001]
    assert originals[3000:].tolist() == [17, 2999]
    assert (similarity[3000:] > 0.8).all()


def test_of_many_copies_the_first_stays() -> None:
    copies = signatures(text_shingles(["the very same sentence over again"]) * 50)
    originals, _ = near_duplicates(copies)
    assert originals[0] == -1
    assert (originals[1:] >= 0).all()


def test_signatures_do_not_depend_on_the_process() -> None:
    """A seed that changed from run to run would change which sample is kept."""
    [hashes] = text_shingles(["one two three four five six seven"])
    assert signatures([hashes])[0, :2].tolist() == [889176326, 504971398]


def test_signatures_are_datasketchs_own() -> None:
    """Of small sets side by side, and of one that is worked on in parts."""
    texts = [" ".join(words(seed, 300)) for seed in range(20)]
    sets = text_shingles(["", "one", *texts, " ".join(words(2, 40_000)), ""])
    for hashes, ours in zip(sets, signatures(sets), strict=True):
        theirs = MinHash(NUM_PERMUTATIONS, hashfunc=int, scheme=MINHASH_SCHEME)
        theirs.update_batch((hashes & np.uint64(0xFFFFFFFF)).tolist())
        assert ours.tolist() == theirs.hashvalues.tolist()


TEXTS = (
    "",
    " \n\t",
    "two words",
    "x = [1, 2]  # naïve, don't",
    "你好\uff0c世界。 Ωμέγα \u00a0 \U0001f600 ٣ _a_\u200b \ud800",
    "the same words " * 400,
)


def test_words_are_what_a_regular_expression_sees() -> None:
    """Every run of word characters and every other sign, whatever the language."""
    for text in TEXTS:
        seen = re.findall(r"\w+|[^\w\s]", text)
        hashes, bounds = _word_hashes([text])
        assert bounds == [0, len(seen)]
        names = dict(zip(hashes.tolist(), seen, strict=True))
        assert len(names) == len(set(seen))
        assert [names[number] for number in hashes.tolist()] == seen


def test_a_texts_shingles_do_not_depend_on_its_neighbours() -> None:
    texts = [*TEXTS, "long " * CHARACTERS_AT_ONCE, *TEXTS]
    alone = [text_shingles([text])[0].tolist() for text in texts]
    assert [hashes.tolist() for hashes in text_shingles(texts)] == alone
