"""What one worker does with a prediction, wherever the worker runs."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from toolgenesis_sft.errors import Outcome, classified
from toolgenesis_sft.records import AnswerKey, Json, LayerScores, ServerPrediction
from toolgenesis_sft.runs import RunFolder, write_json
from toolgenesis_sft.sandbox.jail import Limits
from toolgenesis_sft.sandbox.session import Sandbox
from toolgenesis_sft.scoring import compat, strict
from toolgenesis_sft.scoring.agent import Agent
from toolgenesis_sft.scoring.examination import figures_for, harness_failed
from toolgenesis_sft.scoring.job import ScoreJob, agent_of, digest, judge_of
from toolgenesis_sft.scoring.judge import Judge
from toolgenesis_sft.scoring.presentable import presentable

NUM_TRIES = 2  # of a prediction whose scoring ended in a harness fault


class Scored(NamedTuple):
    """A record, and what it rests on; no evidence where the harness failed."""

    record: LayerScores
    evidence: Json | None


@dataclass(frozen=True)
class Kit:
    """All that a worker needs, as one value that can travel to it."""

    job: ScoreJob
    keys: dict[str, AnswerKey]
    interpreter: Path
    judge: Judge | None
    agent: Agent | None

    @classmethod
    def of(cls, job: ScoreJob, keys: dict[str, AnswerKey], interpreter: Path) -> Kit:
        judge = judge_of(job.settings)
        return cls(job, keys, interpreter, judge, agent_of(job, judge))


class Worker:
    """A kit and an open sandbox, for one prediction after the other."""

    def __init__(self, kit: Kit) -> None:
        settings = kit.job.settings
        limits = Limits(call_s=settings.call_timeout_s, memory_mib=settings.memory_mib)
        self.kit = kit
        self.scenarios = {scenario.slug: scenario for scenario in kit.job.benchmark.scenarios}
        self.sandbox = Sandbox(kit.interpreter, limits).__enter__()

    def score(self, prediction: ServerPrediction) -> Scored:
        """Never raises for a fault of the harness: that is a record too, without evidence."""
        job, key = self.kit.job, self.kit.keys[prediction.slug]
        score_server = SCORERS[job.settings.profile]
        reason = ""
        for _ in range(NUM_TRIES):
            with classified() as verdict:
                record, evidence = score_server(
                    prediction,
                    self.scenarios[prediction.slug],
                    key,
                    self.sandbox,
                    job.settings,
                    self.kit.judge,
                    self.kit.agent,
                )
            if verdict.outcome is Outcome.SCORED:
                path = evidence_path(job.run, prediction).relative_to(job.run.root)
                marks = {"prediction_digest": digest(prediction), "evidence": str(path)}
                return Scored(record.model_copy(update=marks), presentable(evidence))
            reason = f"{verdict.kind}: {verdict.detail}"
        return Scored(unscored(job, key, prediction, reason), None)


SCORERS = {"strict": strict.score_server, "tg-compat": compat.score_server}


def keep_evidence(run: RunFolder, scored: Scored) -> LayerScores:
    """Write the evidence where its record says; the record is what remains to be kept."""
    if scored.evidence is not None:
        write_json(run.root / scored.record.evidence, scored.evidence)
    return scored.record


def given_up(kit: Kit, prediction: ServerPrediction, error: BaseException) -> LayerScores:
    """The record of a prediction that our own code, or its worker's end, left without a score."""
    reason = f"scorer: {type(error).__name__}: {error}"
    return unscored(kit.job, kit.keys[prediction.slug], prediction, reason)


def unscored(
    job: ScoreJob, key: AnswerKey, prediction: ServerPrediction, reason: str
) -> LayerScores:
    return LayerScores(
        slug=prediction.slug,
        model=prediction.model,
        strategy=prediction.strategy,
        sample_index=prediction.sample_index,
        prediction_digest=digest(prediction),
        figures=dict.fromkeys(figures_for(key, job.settings), harness_failed(reason)),
    )


def evidence_path(run: RunFolder, prediction: ServerPrediction) -> Path:
    """evidence/<slug>/<model>.<strategy>.<sample>.json; a hub name's slash becomes `_`."""
    model = re.sub(r"[^A-Za-z0-9._-]", "_", prediction.model)
    if model != prediction.model:
        model += "-" + hashlib.sha256(prediction.model.encode()).hexdigest()[:6]
    name = f"{model}.{prediction.strategy}.{prediction.sample_index}.json"
    return run.evidence / prediction.slug / name
