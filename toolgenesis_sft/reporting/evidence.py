"""The evidence files of a run: what was generated, asked and answered, one file a prediction.

Their content comes from a model under test. It is read as data, cut to size, and reaches the page
only inside a JSON block.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator

from toolgenesis_sft.prompts import parse_prediction
from toolgenesis_sft.records import Json, LayerScores
from toolgenesis_sft.reporting.study import Contestant, Key, Study

MAX_TEXT = 20_000  # characters of one text on the page; the evidence file keeps what it has


def read_evidence(study: Study, score: LayerScores) -> dict[str, Json]:
    """The evidence of one score, or {"unreadable": why}. Only files inside the run are read."""
    if not score.evidence:
        return {}
    root = study.folder.root.resolve()
    path = (root / score.evidence).resolve()
    if not path.is_relative_to(root):
        return {"unreadable": "the path leaves the run folder"}
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        return {"unreadable": str(error)}
    return value if isinstance(value, dict) else {"unreadable": "not a JSON object"}


def unit_test_faults(study: Study) -> dict[Contestant, dict[str, Counter[str]]]:
    """Faults of single unit tests by contestant and server."""
    faults: defaultdict[Contestant, dict[str, Counter[str]]] = defaultdict(dict)
    for contestant, key in keys_in_order(study):
        score = study.scores.get(key)
        if score is None:
            continue
        tests = read_evidence(study, score).get("unit_tests") or []
        kinds = Counter(kind for test in tests if (kind := _test_fault(test)))
        if kinds:
            faults[contestant].setdefault(score.slug, Counter()).update(kinds)
    return dict(faults)


def _test_fault(test: Json) -> str:
    """Why a unit test did not score 1; empty where it did."""
    if not isinstance(test, dict) or test.get("score") == 1.0:
        return ""
    if test.get("fault"):
        return str(test["fault"])
    if test.get("unanswerable"):
        return "unanswerable"
    if bool(test.get("is_error")) != bool(test.get("expects_error")):
        return "error_where_an_answer_is_expected" if test.get("is_error") else "no_error"
    return "different_answer"


def keys_in_order(study: Study) -> Iterator[tuple[Contestant, Key]]:
    """Every prediction that was asked for, made or not."""
    for contestant in study.contestants:
        for slug in study.sets["all"]:
            for sample in range(study.num_samples[contestant]):
                yield contestant, (*contestant, slug, sample)


def detail(study: Study, key: Key) -> dict[str, Json]:
    """What the page shows when a server is opened; equal parts of equal servers live in
    `scenario_detail`."""
    score, prediction = study.scores.get(key), study.predictions.get(key)
    found = read_evidence(study, score) if score else {}
    shown: dict[str, Json] = {name: value for name, value in found.items() if name in SHOWN}
    if prediction is not None:
        if not {"code", "fault"} <= found.keys():  # the evidence has what the scorer parsed
            parsed = parse_prediction(prediction)
            shown = {"code": parsed.code, "fault": parsed.fault} | shown
        if str(shown["code"] or "").strip() != prediction.completion.strip():
            shown["completion"] = prediction.completion
        shown["schema_completion"] = prediction.schema_completion
        shown["turns"] = [turn.model_dump(mode="json") for turn in prediction.turns]
        shown["generation"] = {
            "finish_reason": prediction.finish_reason,
            "num_prompt_tokens": prediction.num_prompt_tokens,
            "num_completion_tokens": prediction.num_completion_tokens,
            "elapsed_s": round(prediction.elapsed_s, 2),
            "temperature": prediction.temperature,
            "seed": prediction.seed,
            "mean_logprob": prediction.mean_logprob,
        }
    if score is not None:
        shown["details"] = score.details
    whole: dict[str, Json] = cut(shown)
    return whole


SHOWN = frozenset(
    {
        "unreadable",
        "code",
        "fault",
        "tools",
        "match",
        "arguments",
        "compliance_faults",
        "protocol_faults",
        "unit_tests",
        "tasks",
        "capabilities",
        "authorised",
        "observed",
        "judged",
        "stderr",
    }
)


def scenario_detail(study: Study) -> dict[str, Json]:
    """By slug: what was asked for, and the gold tools."""
    asked = set(study.sets["all"])
    return {
        scenario.slug: cut(
            {
                "prompt": scenario.prompt,
                "labels": [scenario.primary_label, *scenario.secondary_labels],
                "server_class": scenario.server_class,
                "requires_api": scenario.requires_api,
                "level": scenario.sandbox_level,
                "gold_tools": [
                    tool.model_dump(mode="json") for tool in study.keys[scenario.slug].tools
                ],
            }
        )
        for scenario in study.benchmark.scenarios
        if scenario.slug in asked
    }


def cut(value: Json) -> Json:
    """Long texts end with a mark that says how much is missing; a number that JSON has no word for
    (Python's own reader takes NaN from a model's server) becomes its name."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return value[:MAX_TEXT] + f"\n... {len(value) - MAX_TEXT:,} more characters"
    if isinstance(value, list):
        return [cut(item) for item in value]
    if isinstance(value, dict):
        return {key: cut(item) for key, item in value.items()}
    return value
