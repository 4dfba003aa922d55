"""Compares strings by edits, by positions and by the pairs of letters that they share."""

from fastmcp import FastMCP

mcp = FastMCP("String Similarity")


def levenshtein(first: str, second: str) -> int:
    """Fewest insertions, deletions and substitutions, one row of the table at a time."""
    row = list(range(len(second) + 1))
    for i, left in enumerate(first, 1):
        above, row = row, [i]
        for j, right in enumerate(second, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (left != right)))
    return row[-1]


def bigrams(text: str) -> set[str]:
    folded = text.lower()
    return {folded[i : i + 2] for i in range(len(folded) - 1)}


@mcp.tool()
def edit_distance(first: str, second: str, ignore_case: bool = False) -> dict[str, float]:
    """Levenshtein distance, and the similarity 1 - distance / length of the longer string."""
    if ignore_case:
        first, second = first.lower(), second.lower()
    distance = levenshtein(first, second)
    longer = max(len(first), len(second))
    return {"distance": distance, "similarity": round(1 - distance / longer, 4) if longer else 1.0}


@mcp.tool()
def differing_positions(first: str, second: str) -> list[int]:
    """Zero-based positions at which two strings of one length differ (their Hamming distance)."""
    if len(first) != len(second):
        raise ValueError(f"lengths differ: {len(first)} and {len(second)}")
    return [i for i, (left, right) in enumerate(zip(first, second, strict=True)) if left != right]


@mcp.tool()
def bigram_similarity(first: str, second: str) -> float:
    """Jaccard index of the two sets of letter pairs, case ignored."""
    left, right = bigrams(first), bigrams(second)
    if not left or not right:
        raise ValueError("both strings need at least two characters")
    return round(len(left & right) / len(left | right), 4)


@mcp.tool()
def rank_candidates(query: str, candidates: list[str], limit: int = 3) -> list[dict]:
    """Candidates by case-insensitive edit distance to the query; ties keep their given order."""
    if not candidates:
        raise ValueError("candidates must not be empty")
    if limit < 1:
        raise ValueError("limit must be at least 1")
    ranked = [
        {"candidate": text, "distance": levenshtein(query.lower(), text.lower())}
        for text in candidates
    ]
    return sorted(ranked, key=lambda entry: entry["distance"])[:limit]


if __name__ == "__main__":
    mcp.run()
