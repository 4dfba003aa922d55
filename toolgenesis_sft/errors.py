"""Who failed: the user, the model under test, or this harness."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

EXIT_USER_ERROR = 2
EXIT_REQUEUE = 85  # a run that saved on request and wants its place in the queue again


class Outcome(StrEnum):
    """Why a figure has the value it has, or none."""

    SCORED = "scored"
    MODEL_FAULT = "model_fault"
    HARNESS_FAULT = "harness_fault"
    NOT_REACHED = "not_reached"


class UserError(Exception):
    """Something a person can mend. Printed as one line; the process exits with code 2.

    field: what is wrong, as the user spells it (`train.learning_rate`, `--benchmark`).
    value: what was given.
    rule: what would be right.
    next_step: what to type or change.
    """

    def __init__(self, field: str, value: object, rule: str, next_step: str) -> None:
        shown = value if isinstance(value, str) else repr(value)
        if len(shown) > 200:
            shown = shown[:197] + "..."
        line = f"{field} = {shown}: {rule}; {next_step}"
        super().__init__(" ".join(line.split()))
        self.field, self.value, self.rule, self.next_step = field, value, rule, next_step

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str, str, str]]:
        """Crosses from a worker process with all four parts; the value as it is shown."""
        return UserError, (self.field, str(self.value), self.rule, self.next_step)


class Fault(Exception):
    """A failure with a side. `kind` is a short, stable name for the error taxonomy."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind, detail)
        self.kind, self.detail = kind, detail

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


class ModelFault(Fault):
    """The model's server is at fault."""


class HarnessFault(Fault):
    """The harness is at fault (sandbox, judge, endpoint). Retried, listed, never a zero."""


@dataclass
class Verdict:
    """What `classified` found: an outcome and, for a fault, its kind and detail."""

    outcome: Outcome = Outcome.NOT_REACHED
    kind: str = ""
    detail: str = ""


@contextmanager
def classified() -> Iterator[Verdict]:
    """Run a block of scoring and name the side at fault.

    The block raises plain ModelFault or HarnessFault; an OSError is the harness's. Any other
    exception is a bug of ours and is not swallowed.
    """
    verdict = Verdict()
    try:
        yield verdict
    except ModelFault as fault:
        verdict.outcome, verdict.kind, verdict.detail = (
            Outcome.MODEL_FAULT,
            fault.kind,
            fault.detail,
        )
    except HarnessFault as fault:
        verdict.outcome = Outcome.HARNESS_FAULT
        verdict.kind, verdict.detail = fault.kind, fault.detail
    except OSError as error:
        verdict.outcome = Outcome.HARNESS_FAULT
        verdict.kind, verdict.detail = "os_error", str(error)
    else:
        verdict.outcome = Outcome.SCORED
