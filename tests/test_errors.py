from __future__ import annotations

import pickle

import pytest

from toolgenesis_sft.errors import HarnessFault, ModelFault, Outcome, UserError, classified


def test_a_user_error_is_one_line_with_field_value_rule_and_next_step() -> None:
    error = UserError("train.epochs", "three\nor four", "must be\na number", "write 3")
    assert str(error) == "train.epochs = three or four: must be a number; write 3"


def test_a_long_value_is_cut_in_the_line() -> None:
    assert len(str(UserError("field", "x" * 10_000, "rule", "next"))) < 250


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (ModelFault("crashed", "exit 1"), Outcome.MODEL_FAULT),
        (HarnessFault("judge", "down"), Outcome.HARNESS_FAULT),
        (OSError(28, "No space left"), Outcome.HARNESS_FAULT),
    ],
)
def test_classified_names_the_side_at_fault(fault: Exception, outcome: Outcome) -> None:
    with classified() as verdict:
        raise fault
    assert verdict.outcome is outcome
    assert verdict.kind


def test_classified_does_not_swallow_a_bug_of_ours() -> None:
    with pytest.raises(ZeroDivisionError), classified():
        raise ZeroDivisionError


def test_a_block_without_fault_is_scored() -> None:
    with classified() as verdict:
        pass
    assert verdict.outcome is Outcome.SCORED


@pytest.mark.parametrize(
    "error",
    [UserError("a", "b", "c", "d"), ModelFault("kind", "detail"), HarnessFault("kind", "detail")],
)
def test_errors_cross_a_process_boundary_whole(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
