"""The `App` that programs of the benchmark's own convention derive from."""

from __future__ import annotations

import random
from typing import Any


class App:
    """Takes a specification, builds a FastMCP in `_initialize_mcp_server`, holds state.

    Subclasses differ in what they pass up (a specification, a name, nothing), so all are taken.
    """

    def __init__(self, spec: Any = None, *_: Any, name: str | None = None, **__: Any) -> None:
        self.spec: dict[str, Any] = spec if isinstance(spec, dict) else {}
        self.name = name or (spec if isinstance(spec, str) else type(self).__name__)
        self.rng = random.Random(0)

    def _initialize_mcp_server(self) -> Any:
        raise TypeError(f"{type(self).__name__} has no _initialize_mcp_server")

    def set_seed(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def load_state(self, state: dict[str, Any]) -> None:
        """Take a state that `get_state` gave."""
        for key, value in state.items():
            setattr(self, key, value)

    def get_state(self) -> dict[str, Any]:
        return {}

    def reset(self) -> None:
        self.rng = random.Random(0)
