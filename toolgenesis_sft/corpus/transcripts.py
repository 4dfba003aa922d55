"""What coder agents went through: servers that failed in the sandbox, and the ones they became.

A transcript gives a pair like any other, its final server, which is verified by the scenario's
unit tests. The turns before it that failed are its own faults: repair samples take them before
they take any fault of the catalogue, and try them again with the agent's own calls.
"""

from __future__ import annotations

from pydantic import ValidationError

from toolgenesis_sft.benchmark import Benchmark
from toolgenesis_sft.corpus.drops import Unfit
from toolgenesis_sft.corpus.pairs import Pair, of_scenario
from toolgenesis_sft.prompts import TrialCall, parse_code, parse_prediction, parse_trial_calls
from toolgenesis_sft.records import Json, ServerPrediction

COLUMNS = frozenset({"slug", "model", "strategy", "completion"})  # of any predictions.jsonl


def transcript_pair(
    row: dict[str, Json], benchmark: Benchmark, variant: str, source: str, licence: str
) -> Pair:
    """The pair of one line of a predictions.jsonl.

    Raises Unfit where the line is no coder agent's talk about a training scenario, or the talk
    holds no repair.
    """
    try:
        prediction = ServerPrediction.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Unfit("row is not in its layout", f"transcripts: {place}: {first['msg']}") from error
    if prediction.slug in benchmark.held_out:
        raise Unfit("overlap: slug", f"a transcript of the held-out {prediction.slug}")
    if prediction.slug not in benchmark.train:
        raise Unfit("transcript: not of a training scenario", prediction.slug)
    parsed = parse_prediction(prediction)
    if parsed.code is None or parsed.fault:
        raise Unfit("transcript: ends without a program", parsed.fault)
    faults, calls = failed_turns(prediction, parsed.code)
    if not faults:
        raise Unfit("transcript: nothing was mended", prediction.slug)
    [scenario] = [each for each in benchmark.scenarios if each.slug == prediction.slug]
    return of_scenario(scenario, parsed.code, source, licence, variant, faults, calls)


def failed_turns(
    prediction: ServerPrediction, mended: str
) -> tuple[tuple[str, ...], tuple[TrialCall, ...]]:
    """The programs that came before the mended one, the latest first, and the agent's calls.

    The first answer is the design, each further one a program, until the mended one.
    """
    answers = [turn.content for turn in prediction.turns if turn.role == "assistant"][1:]
    faults: list[str] = []
    calls: tuple[TrialCall, ...] = ()
    for answer in answers:
        calls = parse_trial_calls(answer) or calls
        code, _ = parse_code(answer)
        if code == mended:
            break
        if code is not None and code not in faults:
            faults.insert(0, code)
    return tuple(faults), calls
