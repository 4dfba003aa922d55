"""A sprint board with story points and work-in-progress limits."""

from copy import deepcopy

from mcp.server.fastmcp import FastMCP
from src.apps import App

COLUMNS = ["todo", "doing", "review", "done"]
LIMITS = {"doing": 2, "review": 1}
POINTS = [1, 2, 3, 5, 8, 13]
SEED = {
    "cards": [
        {"id": "C-1", "title": "Login form", "points": 3, "column": "done"},
        {"id": "C-2", "title": "Password reset", "points": 5, "column": "review"},
        {"id": "C-3", "title": "Audit log", "points": 8, "column": "doing"},
        {"id": "C-4", "title": "Dark theme", "points": 2, "column": "todo"},
    ],
    "next_number": 5,
}


class SprintBoard(App):
    """Cards travel from todo over doing and review to done."""

    def __init__(self, spec: dict | None = None) -> None:
        super().__init__(spec)
        self.state = deepcopy(SEED)

    def load_state(self, state: dict) -> None:
        self.state = deepcopy(state)

    def get_state(self) -> dict:
        return deepcopy(self.state)

    def in_column(self, column: str) -> list[dict]:
        """Return the cards of one column, oldest first."""
        if column not in COLUMNS:
            raise ValueError(f"column must be one of {', '.join(COLUMNS)}")
        return [card for card in self.state["cards"] if card["column"] == column]

    def _initialize_mcp_server(self) -> FastMCP:
        mcp = FastMCP("Sprint Board")

        @mcp.tool()
        def add_card(title: str, points: int) -> dict:
            """Put a new card into todo; points are 1, 2, 3, 5, 8 or 13."""
            if not title.strip() or points not in POINTS:
                raise ValueError("need a title, and points of the scale")
            number = self.state["next_number"]
            self.state["next_number"] += 1
            card = {"id": f"C-{number}", "title": title.strip(), "points": points, "column": "todo"}
            self.state["cards"].append(card)
            return card

        @mcp.tool()
        def move_card(card_id: str, column: str) -> dict:
            """Move a card one column forward or any number back."""
            card = next((c for c in self.state["cards"] if c["id"] == card_id), None)
            if card is None:
                raise ValueError(f"no card {card_id!r}")
            occupied = len(self.in_column(column))
            step = COLUMNS.index(column) - COLUMNS.index(card["column"])
            if step == 0 or step > 1:
                raise ValueError(f"{card_id} cannot go from {card['column']} to {column}")
            if occupied >= LIMITS.get(column, occupied + 1):
                raise ValueError(f"{column} is full")
            card["column"] = column
            return card

        @mcp.tool()
        def list_cards(column: str | None = None) -> list[dict]:
            """List all cards, or those of one column, oldest first."""
            return self.state["cards"] if column is None else self.in_column(column)

        @mcp.tool()
        def burn_status(day: int, sprint_days: int) -> dict:
            """Compare the points done with an even pace after `day` days."""
            if sprint_days < 1 or not 0 <= day <= sprint_days:
                raise ValueError("need sprint_days >= 1 and day within it")
            total = sum(card["points"] for card in self.state["cards"])
            done = sum(card["points"] for card in self.in_column("done"))
            ideal = round(total * day / sprint_days, 1)
            return {"total": total, "done": done, "ideal": ideal, "on_track": done >= ideal}

        return mcp
