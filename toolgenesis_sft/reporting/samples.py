"""Several samples of a scenario, and what the model itself thought of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from toolgenesis_sft.prompts import parse_confidence
from toolgenesis_sft.records import FigureName, ServerPrediction
from toolgenesis_sft.reporting import stats
from toolgenesis_sft.reporting.study import Study
from toolgenesis_sft.reporting.values import Row, groups, row_of


class PassAtK(Row):
    figure: FigureName
    num_samples: int
    pass_at_k: dict[int, float]
    pass_hat_k: dict[int, float]


Signal = Literal["mean_logprob", "stated_probability"]
SIGNALS: dict[Signal, Callable[[ServerPrediction], float | None]] = {
    "mean_logprob": lambda prediction: prediction.mean_logprob,
    "stated_probability": lambda prediction: parse_confidence(prediction.confidence_completion),
}


class Alignment(Row):
    """The model's confidence (mean log-probability of its answer, or the probability it stated)
    against what came out. `num_not_stated` predictions were asked, and stated no probability;
    they are not among the `num_predictions`."""

    figure: FigureName
    signal: Signal
    num_predictions: int
    num_not_stated: int
    num_passed: int
    auroc: float | None
    spearman: float | None


def passes_at_k(study: Study) -> list[PassAtK]:
    """pass@k and pass^k over servers, for rows with several samples. A sample passes a figure
    with the value 1: every launch, every unit test, every task."""
    rows = []
    for contestant, scenarios, slugs in groups(study):
        n = study.num_samples[contestant]
        if n == 1:
            continue
        for figure in ("launch", "ut_hard", "task_utility"):
            if figure not in study.figures:
                continue
            scores = [
                [stats.counted(score) for score in study.figure(contestant, slug, figure)]
                for slug in slugs
                if study.applies(slug, figure)
            ]
            if not scores or any(value is None for server in scores for value in server):
                continue
            passed = [sum(value == 1.0 for value in server) for server in scores]
            ks = sorted({k for k in (1, 2, 4, 8, 16, 32, 64) if k < n} | {n})
            rows.append(
                PassAtK.model_validate(
                    {
                        **row_of(contestant, scenarios),
                        "figure": figure,
                        "num_samples": n,
                        "pass_at_k": {
                            k: stats.mean([stats.pass_at_k(n, c, k) for c in passed]) for k in ks
                        },
                        "pass_hat_k": {
                            k: stats.mean([stats.pass_hat_k(n, c, k) for c in passed]) for k in ks
                        },
                    }
                )
            )
    return rows


def alignments(study: Study) -> list[Alignment]:
    """AUROC of the model's confidence for `figure >= stats.PASS`, and its rank correlation with
    the figure. Only predictions that carry the signal take part: engines may give no
    log-probabilities, and recipes may ask for no probability."""
    rows = []
    for contestant, scenarios, slugs in groups(study):
        for figure in study.figures:
            counted = [
                (prediction, value)
                for slug in slugs
                if study.applies(slug, figure)
                for sample, score in enumerate(study.figure(contestant, slug, figure))
                if (prediction := study.predictions.get((*contestant, slug, sample))) is not None
                and (value := stats.counted(score)) is not None
            ]
            num_asked = sum(made.confidence_completion is not None for made, _ in counted)
            for signal, read in SIGNALS.items():
                pairs = [
                    (confidence, value)
                    for prediction, value in counted
                    if (confidence := read(prediction)) is not None
                ]
                asked = num_asked if signal == "stated_probability" else len(pairs)
                if asked < 2:
                    continue
                signals, values = np.array(pairs, dtype=float).reshape(-1, 2).T
                passed = values >= stats.PASS
                rows.append(
                    Alignment.model_validate(
                        {
                            **row_of(contestant, scenarios),
                            "figure": figure,
                            "signal": signal,
                            "num_predictions": len(pairs),
                            "num_not_stated": asked - len(pairs),
                            "num_passed": int(passed.sum()),
                            "auroc": stats.auroc(signals, passed),
                            "spearman": stats.spearman(signals, values),
                        }
                    )
                )
    return rows
