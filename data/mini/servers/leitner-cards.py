"""Flashcards with the Leitner system: right answers move a card up, wrong ones back to box 1."""

from fastmcp import FastMCP

mcp = FastMCP("Leitner Cards")

BOXES = 5

cards: list[dict] = [
    {"id": 1, "front": "hund", "back": "dog", "box": 1},
    {"id": 2, "front": "katze", "back": "cat", "box": 2},
    {"id": 3, "front": "vogel", "back": "bird", "box": 5},
    {"id": 4, "front": "pferd", "back": "horse", "box": 3},
]


def card_by_id(card_id: int) -> dict:
    if not 1 <= card_id <= len(cards):
        raise ValueError(f"no card with id {card_id}")
    return cards[card_id - 1]


@mcp.tool()
def add_card(front: str, back: str) -> dict:
    """Put a new card into box 1."""
    front, back = front.strip(), back.strip()
    if not front or not back:
        raise ValueError("both sides of a card need text")
    if any(card["front"].lower() == front.lower() for card in cards):
        raise ValueError(f"there is a card for {front!r} already")
    card = {"id": len(cards) + 1, "front": front, "back": back, "box": 1}
    cards.append(card)
    return card


@mcp.tool()
def answer_card(card_id: int, answer: str) -> dict:
    """Check an answer and move the card; capitals and outer spaces are ignored."""
    card = card_by_id(card_id)
    correct = answer.strip().lower() == card["back"].lower()
    old = card["box"]
    card["box"] = min(old + 1, BOXES) if correct else 1
    return {"correct": correct, "solution": card["back"], "from_box": old, "to_box": card["box"]}


@mcp.tool()
def due_cards(session: int) -> list[str]:
    """Fronts of the cards due in a session: box b comes up every 2 ** (b - 1) sessions."""
    if session < 1:
        raise ValueError("sessions are numbered from 1")
    return [card["front"] for card in cards if session % 2 ** (card["box"] - 1) == 0]


@mcp.tool()
def cards_in_box(box: int) -> dict:
    """Show the ids in a box and their share of all cards."""
    if not 1 <= box <= BOXES:
        raise ValueError(f"box must be between 1 and {BOXES}")
    ids = [card["id"] for card in cards if card["box"] == box]
    return {"box": box, "card_ids": ids, "share_percent": round(100 * len(ids) / len(cards), 1)}


if __name__ == "__main__":
    mcp.run()
