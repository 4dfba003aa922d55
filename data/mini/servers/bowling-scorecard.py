"""Score a ten-pin bowling game from the list of its rolls."""

from fastmcp import FastMCP

mcp = FastMCP("Bowling Scorecard")


def read_card(rolls: list[int]) -> tuple[list[int], int]:
    """Totals of the settled frames, and the pins now standing."""
    totals: list[int] = []
    start, frame, score, standing = 0, 1, 0, 10
    while start < len(rolls):
        two = rolls[start : start + 2]
        need = 3 if two[0] == 10 or sum(two) == 10 else 2
        size = need if frame == 10 else 1 if two[0] == 10 else 2
        if frame > 10:
            raise ValueError("rolls after the end of the game")
        for pins in rolls[start : start + size]:
            if not 0 <= pins <= standing:
                raise ValueError(f"cannot hit {pins} of {standing} pins")
            standing = standing - pins or 10
        score += sum(rolls[start : start + need])
        if start + need <= len(rolls):
            totals.append(score)
        if start + size <= len(rolls):
            standing = 10
        start, frame = start + size, frame + 1
    return totals, standing


@mcp.tool
def running_totals(rolls: list[int]) -> list[int]:
    """Running total after each frame that is settled."""
    return read_card(rolls)[0]


@mcp.tool
def best_final_score(rolls: list[int]) -> int:
    """Final score if every roll to come clears the lane."""
    game = list(rolls)
    while len(read_card(game)[0]) < 10:
        game.append(read_card(game)[1])
    return read_card(game)[0][-1]


if __name__ == "__main__":
    mcp.run()
