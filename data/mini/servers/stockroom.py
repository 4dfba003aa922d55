"""Track the stock levels of a small stockroom and say what has to be reordered."""

from copy import deepcopy
from typing import Any

from mcp.server.fastmcp import FastMCP
from src.apps import App

SEED = {
    "BOLT-M6": {"on_hand": 200, "reorder_point": 100, "lot_size": 250},
    "NUT-M6": {"on_hand": 150, "reorder_point": 100, "lot_size": 250},
    "WASHER-6": {"on_hand": 40, "reorder_point": 60, "lot_size": 10},
}


class Stockroom(App):
    def __init__(self, spec: dict | None = None) -> None:
        super().__init__(spec)
        self.load_state({"items": SEED})

    def load_state(self, state: dict) -> None:
        self.items: dict[str, dict[str, int]] = deepcopy(state["items"])

    def get_state(self) -> dict:
        return {"items": deepcopy(self.items)}

    def _item(self, sku: str) -> dict[str, int]:
        if sku not in self.items:
            raise ValueError(f"unknown SKU {sku!r}")
        return self.items[sku]

    def _initialize_mcp_server(self) -> FastMCP:
        mcp = FastMCP("Stockroom")

        @mcp.tool()
        def receive_goods(sku: str, quantity: int) -> int:
            """Book a delivery into stock and return the new level."""
            if quantity < 1:
                raise ValueError("quantity must be at least 1")
            self._item(sku)["on_hand"] += quantity
            return self.items[sku]["on_hand"]

        @mcp.tool()
        def issue_goods(sku: str, quantity: int) -> int:
            """Take goods out of stock and return the new level, which is never negative."""
            item = self._item(sku)
            if not 1 <= quantity <= item["on_hand"]:
                raise ValueError(f"quantity must be between 1 and {item['on_hand']}")
            item["on_hand"] -= quantity
            return item["on_hand"]

        @mcp.tool()
        def item_status(sku: str) -> dict[str, Any]:
            """Show an item's figures and whether it has come down to its reorder point."""
            item = self._item(sku)
            return {"sku": sku, **item, "must_reorder": item["on_hand"] <= item["reorder_point"]}

        @mcp.tool()
        def reorder_list(margin: int = 0) -> list[dict[str, Any]]:
            """List the fewest lots that lift each item above its reorder point plus a margin."""
            if margin < 0:
                raise ValueError("margin must not be negative")
            orders = []
            for sku, item in sorted(self.items.items()):
                gap = item["reorder_point"] + margin - item["on_hand"]
                lots = gap // item["lot_size"] + 1
                if gap >= 0:
                    orders.append({"sku": sku, "lots": lots, "quantity": lots * item["lot_size"]})
            return orders

        return mcp
