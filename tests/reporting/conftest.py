"""A small scored run, written by hand from the records: what the report's tests count on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from toolgenesis_sft.config import Recipe
from toolgenesis_sft.errors import Outcome
from toolgenesis_sft.records import (
    ChatSample,
    FigureScore,
    LayerScores,
    Message,
    ServerPrediction,
)
from toolgenesis_sft.runs import RunFolder, write_json

FIGURES = ("compliance", "launch", "schema_f1", "ut_soft", "ut_hard", "capability_boundary")
CODE = """from mcp.server.fastmcp import FastMCP

mcp = FastMCP("demo")


@mcp.tool()
def add(a: int) -> int:
    return a + 1
"""


@dataclass
class World:
    """A benchmark and a folder to score into. `scored` and `failed` append one prediction each."""

    root: Path
    slugs: list[str]
    benchmark: Path
    out: Path
    predictions: list[ServerPrediction] = field(default_factory=list)
    scores: list[LayerScores] = field(default_factory=list)

    def scored(self, slug: str, model: str = "trained", **figures: float) -> LayerScores:
        """A server that was scored: 1.0 in every figure that is not named."""
        values = dict.fromkeys(FIGURES, 1.0) | figures
        return self.add(
            slug,
            model,
            {n: FigureScore(value=v, outcome=Outcome.SCORED) for n, v in values.items()},
        )

    def failed(self, slug: str, model: str = "trained", reason: str = "spawn") -> LayerScores:
        """A server that never launched."""
        launch = FigureScore(value=0.0, outcome=Outcome.MODEL_FAULT, reason=reason)
        rest = FigureScore(outcome=Outcome.NOT_REACHED, reason=f"launch: {reason}")
        return self.add(slug, model, {n: launch if n == "launch" else rest for n in FIGURES})

    def unscored(self, slug: str, model: str = "trained") -> LayerScores:
        fault = FigureScore(outcome=Outcome.HARNESS_FAULT, reason="judge_down: connection refused")
        return self.add(slug, model, dict.fromkeys(FIGURES, fault))

    def add(
        self,
        slug: str,
        model: str,
        figures: dict[str, FigureScore],
        *,
        strategy: str = "direct",
        sample: int = 0,
        logprob: float | None = None,
        stated: str | None = None,
        completion: str = CODE,
        evidence: dict[str, Any] | None = None,
        details: dict[str, float] | None = None,
    ) -> LayerScores:
        path = f"evidence/{slug}/{len(self.scores)}.json" if evidence is not None else ""
        if evidence is not None:
            write_json(self.out / path, {"slug": slug, "code": completion, "tools": [], **evidence})
        self.predictions.append(
            ServerPrediction(
                slug=slug,
                model=model,
                strategy=strategy,
                sample_index=sample,
                completion=completion,
                finish_reason="stop",
                mean_logprob=logprob,
                confidence_completion=stated,
            )
        )
        score = LayerScores(
            slug=slug,
            model=model,
            strategy=strategy,
            sample_index=sample,
            figures=figures,
            details=details or {},
            evidence=path,
        )
        self.scores.append(score)
        return score

    def written(self) -> RunFolder:
        """All lines on disk."""
        self.out.mkdir(parents=True, exist_ok=True)
        run = RunFolder(self.out)
        run.predictions.write_text("".join(p.to_line() for p in self.predictions))
        run.scores.write_text("".join(s.to_line() for s in self.scores))
        return run

    def trained_on(self, slugs: list[str]) -> None:
        samples = [
            ChatSample(
                id=slug,
                messages=(Message(role="user", content="?"),),
                source="test",
                licence="Apache-2.0",
                scenario=slug,
            )
            for slug in slugs
        ]
        (self.out / "data").mkdir(parents=True, exist_ok=True)
        (self.out / "data/train.jsonl").write_text("".join(s.to_line() for s in samples))

    def recipe(self, **sections: Any) -> Recipe:
        tree = {
            "name": "small",
            "benchmark": str(self.benchmark),
            "model": {"random": {}},
            "generate": {"engine": "transformers", "compare_before_training": False},
            "report": {"bootstrap_resamples": 200},
        }
        for name, values in sections.items():
            tree[name] = {**tree.get(name, {}), **values}
        return Recipe.model_validate(tree)


def item(slug: str, index: int) -> dict[str, Any]:
    return {
        "server_id": None,
        "server_name": slug,
        "server_slug": slug,
        "primary_label": ["Finance", "Health", "Games"][index % 3],
        "secondary_labels": [],
        "agent_input_prompt": f"Build {slug}: it adds.",
        "task_example": ["Add one to two."],
        "tool_definitions": [
            {
                "name": "add",
                "description": "Add one.",
                "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}},
                "annotations": None,
            }
        ],
        "unit_test": {
            "add": [
                {
                    "function_name": "add",
                    "arguments": {"a": 1},
                    "function_output_content": "2",
                }
            ]
        },
        "server_class": "stateful" if index % 3 == 0 else "stateless",
        "requires_api": False,
        "sandbox_level": "L0",
    }


@pytest.fixture
def make_world(tmp_path: Path) -> Callable[..., World]:
    """A benchmark of `num_servers`, the first `num_train` of them the training split."""

    def make(num_servers: int = 6, num_train: int = 0, name: str = "run") -> World:
        slugs = [f"server-{index}" for index in range(num_servers)]
        benchmark = tmp_path / "benchmark.json"
        benchmark.write_text(json.dumps([item(slug, i) for i, slug in enumerate(slugs)]))
        splits = {"train": slugs[:num_train], "held_out": slugs[num_train:]}
        (tmp_path / "splits.json").write_text(json.dumps(splits))
        return World(tmp_path, slugs, benchmark, tmp_path / name)

    return make
