"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from toolgenesis_sft.config import Train


def learning_rate(step: int, num_steps: int, settings: Train) -> float:
    """The rate of optimizer step `step` (0 is the first): linear warm-up, then cosine to a floor.

    The last step of the warm-up has the peak, the last step of all has the floor. Because it
    depends on nothing else, a resumed run needs no scheduler state.
    """
    assert 0 <= step < num_steps, f"step {step} is not one of {num_steps}"
    num_warmup = math.ceil(settings.warmup_ratio * num_steps)
    if step < num_warmup:
        return settings.learning_rate * (step + 1) / num_warmup
    progress = (step + 1 - num_warmup) / (num_steps - num_warmup)
    floor = settings.min_learning_rate_ratio
    share = floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2
    return settings.learning_rate * share
