"""A table of Nim for two players under normal play: the last stone wins."""

from copy import deepcopy
from functools import reduce
from operator import xor

from mcp.server.fastmcp import FastMCP
from src.apps import App

PLAYERS = ("A", "B")
SEED = {"heaps": [3, 4, 5], "turn": "A", "winner": None, "moves": [["A", 2, 1], ["B", 3, 2]]}


class NimTable(App):
    """One running game; a move is [player, heap, count]."""

    def __init__(self, spec: dict | None = None) -> None:
        super().__init__(spec)
        self.game = deepcopy(SEED)

    def load_state(self, state: dict) -> None:
        self.game = deepcopy(state)

    def get_state(self) -> dict:
        return deepcopy(self.game)

    def position(self) -> dict:
        """Return the game without its moves."""
        return {key: deepcopy(self.game[key]) for key in ("heaps", "turn", "winner")}

    def _initialize_mcp_server(self) -> FastMCP:
        mcp = FastMCP("Nim Table")

        @mcp.tool()
        def deal_heaps(heaps: list[int]) -> dict:
            """Start a new game with 1 to 6 heaps of 1 to 50 stones; A begins."""
            if not 1 <= len(heaps) <= 6 or not all(1 <= stones <= 50 for stones in heaps):
                raise ValueError("need 1 to 6 heaps of 1 to 50 stones each")
            self.game = {"heaps": heaps, "turn": "A", "winner": None, "moves": []}
            return self.position()

        @mcp.tool()
        def take_stones(heap: int, count: int) -> dict:
            """Let the player whose turn it is take stones from a heap."""
            game = self.game
            if game["winner"]:
                raise ValueError(f"the game is over, {game['winner']} has won")
            if heap not in range(1, len(game["heaps"]) + 1):
                raise ValueError(f"no heap {heap}")
            if not 1 <= count <= game["heaps"][heap - 1]:
                raise ValueError("count must be 1 to the size of the heap")
            player = game["turn"]
            game["heaps"][heap - 1] -= count
            game["moves"].append([player, heap, count])
            if any(game["heaps"]):
                game["turn"] = "B" if player == "A" else "A"
            else:
                game["turn"], game["winner"] = None, player
            return self.position()

        @mcp.tool()
        def review_game(player: str | None = None) -> dict:
            """Show the position and the moves of one or both players."""
            if player not in (None, *PLAYERS):
                raise ValueError("players are A and B")
            moves = [move for move in self.game["moves"] if player in (None, move[0])]
            return self.position() | {"moves": moves}

        @mcp.tool()
        def suggest_move(heaps: list[int] | None = None) -> dict:
            """Advise by Bouton's theorem (1901): leave a position of nim-sum zero."""
            stones = self.game["heaps"] if heaps is None else heaps
            if not any(stones) or min(stones) < 0:
                raise ValueError("need at least one stone, no negative heap")
            nim_sum = reduce(xor, stones)
            for number, size in enumerate(stones, 1):
                if nim_sum and (size ^ nim_sum) < size:
                    take = size - (size ^ nim_sum)
                    return {"heap": number, "count": take, "nim_sum": nim_sum, "winning": True}
            largest = stones.index(max(stones)) + 1
            return {"heap": largest, "count": 1, "nim_sum": 0, "winning": False}

        return mcp
