"""Classical test theory for teachers: how hard, how selective and how reliable a test is."""

from mcp.server.fastmcp import FastMCP

mcp = FastMCP("Item Analysis")

OPTIONS = ["A", "B", "C", "D"]


def check(marks: list[list[int]], least_students: int) -> None:
    """Accept a rectangular matrix of zeros and ones, one row a student."""
    if len(marks) < least_students or not marks[0]:
        raise ValueError(f"at least {least_students} student(s) and one item are needed")
    if any(len(row) != len(marks[0]) or not set(row) <= {0, 1} for row in marks):
        raise ValueError("every student needs a mark of 0 or 1 for every item")


@mcp.tool()
def difficulty_by_item(marks: list[list[int]]) -> list[float]:
    """Share of students who solved each item; a high value is an easy item."""
    check(marks, 1)
    return [round(sum(column) / len(marks), 3) for column in zip(*marks)]


@mcp.tool()
def discrimination_by_item(marks: list[list[int]]) -> list[float]:
    """Share who solved each item among the best 27 % of students minus among the worst 27 %.

    Kelley (1939) proposed 27 %. Equal totals keep the order in which the students are given.
    """
    check(marks, 2)
    ranked = sorted(marks, key=sum, reverse=True)
    size = max(1, round(0.27 * len(marks)))
    best, worst = zip(*ranked[:size]), zip(*ranked[-size:])
    return [round((sum(b) - sum(w)) / size, 3) for b, w in zip(best, worst)]


@mcp.tool()
def kuder_richardson(marks: list[list[int]]) -> dict[str, float | str]:
    """KR-20 reliability with the population variance of the total scores, and a verdict."""
    check(marks, 2)
    items, totals = len(marks[0]), [sum(row) for row in marks]
    mean = sum(totals) / len(totals)
    variance = sum((total - mean) ** 2 for total in totals) / len(totals)
    if items < 2 or variance == 0:
        raise ValueError("reliability needs two items and students with different scores")
    shares = [sum(column) / len(marks) for column in zip(*marks)]
    kr20 = items / (items - 1) * (1 - sum(p * (1 - p) for p in shares) / variance)
    verdict = "good" if kr20 >= 0.8 else "acceptable" if kr20 >= 0.6 else "poor"
    return {"kr20": round(kr20, 3), "verdict": verdict}


@mcp.tool()
def distractor_report(key: str, choices: list[str]) -> dict:
    """Count how often each option of a multiple-choice item was chosen, "-" being a blank.

    Wrong options that nobody chose are listed as idle.
    """
    if key not in OPTIONS or any(choice not in [*OPTIONS, "-"] for choice in choices):
        raise ValueError("the key is one of A, B, C, D; choices may also be -")
    counts = {option: choices.count(option) for option in OPTIONS}
    idle = [option for option in OPTIONS if option != key and counts[option] == 0]
    return {"counts": counts, "blank": choices.count("-"), "idle": idle}


if __name__ == "__main__":
    mcp.run()
