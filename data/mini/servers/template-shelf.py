"""A shelf of text templates with {placeholders} that can be saved, searched and filled in."""

import re
from copy import deepcopy

from mcp.server.fastmcp import FastMCP
from src.apps import App

PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)\}")
SEED = {
    "greeting": {"body": "Hello {name}, welcome to {place}!", "uses": 0},
    "receipt": {"body": "{quantity} x {item}, paid by {name}", "uses": 2},
}


def placeholders(body: str) -> list[str]:
    """Placeholder names in order of first appearance."""
    return list(dict.fromkeys(PLACEHOLDER.findall(body)))


class TemplateShelf(App):
    def __init__(self, spec: dict | None = None) -> None:
        super().__init__(spec)
        self.load_state({"templates": SEED})

    def load_state(self, state: dict) -> None:
        self.templates = deepcopy(state["templates"])

    def get_state(self) -> dict:
        return {"templates": deepcopy(self.templates)}

    def _initialize_mcp_server(self) -> FastMCP:
        mcp = FastMCP("Template Shelf")

        @mcp.tool()
        def save_template(name: str, body: str) -> dict:
            """Store a template, or replace the one of that name."""
            if not name.strip() or not body.strip():
                raise ValueError("name and body must not be blank")
            replaced = name in self.templates
            self.templates[name] = {"body": body, "uses": 0}
            return {"name": name, "placeholders": placeholders(body), "replaced": replaced}

        @mcp.tool()
        def fill_template(name: str, values: dict[str, str]) -> str:
            """The text of a template with every placeholder replaced by its value."""
            if name not in self.templates:
                raise ValueError(f"no template named {name!r}")
            template = self.templates[name]
            wanted = placeholders(template["body"])
            if missing := [key for key in wanted if key not in values]:
                raise ValueError(f"no value for {', '.join(missing)}")
            if unknown := sorted(set(values) - set(wanted)):
                raise ValueError(f"template has no {', '.join(unknown)}")
            template["uses"] += 1
            return PLACEHOLDER.sub(lambda match: values[match[1]], template["body"])

        @mcp.tool()
        def find_templates(placeholder: str | None = None) -> list[dict]:
            """Templates by name, all of them or those with a certain placeholder."""
            return [
                {"name": name, "placeholders": placeholders(t["body"]), "uses": t["uses"]}
                for name, t in sorted(self.templates.items())
                if placeholder is None or placeholder in placeholders(t["body"])
            ]

        return mcp
