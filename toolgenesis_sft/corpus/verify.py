"""Is a server what its sample claims? It is run: launch, list, and its unit tests."""

from __future__ import annotations

from dataclasses import dataclass

from toolgenesis_sft.config import Score
from toolgenesis_sft.corpus.sources import Pair
from toolgenesis_sft.errors import Outcome
from toolgenesis_sft.records import AnswerKey, ServerPrediction
from toolgenesis_sft.sandbox.session import Sandbox
from toolgenesis_sft.scoring.strict import score_server

SETTINGS = Score(layers=("L1", "L2"), launch_attempts=1)


@dataclass(frozen=True)
class Verification:
    """`reason` is empty where the server holds what it claims."""

    slug: str
    launched: bool
    ut_hard: float | None
    reason: str = ""


def verify(pair: Pair, key: AnswerKey, sandbox: Sandbox) -> Verification:
    """Run the server of a pair in the sandbox. Raises HarnessFault where the sandbox failed."""
    prediction = ServerPrediction(
        slug=pair.slug,
        model=pair.source,
        strategy="imported",
        completion=pair.code,
        finish_reason="stop",
    )
    record, _ = score_server(prediction, pair.scenario, key, sandbox, SETTINGS)
    launch = record.figures["launch"]
    if launch.outcome is not Outcome.SCORED:
        return Verification(pair.slug, False, None, f"does not launch: {launch.reason}")
    tests = record.figures.get("ut_hard")
    if tests is not None and tests.value != 1.0:
        return Verification(
            pair.slug, True, tests.value, f"passes {tests.value:.0%} of its unit tests"
        )
    return Verification(pair.slug, True, tests.value if tests else None)
