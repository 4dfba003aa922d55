"""How long samples are, chunk by chunk, with the tokens that training will see."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolgenesis_sft.config import Train
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import ChatSample
from toolgenesis_sft.training.chat import TURN_END, Span, spans
from toolgenesis_sft.training.tokenizer import load_tokenizer
from toolgenesis_sft.training.tokens import encode


@dataclass(frozen=True)
class Measured:
    """One sample. num_supervised: tokens that carry the loss; stops: the last one ends the turn.
    fault: why it cannot be trained on; the numbers are then 0."""

    num_tokens: int = 0
    num_supervised: int = 0
    stops: bool = False
    fault: str = ""


class Measurer:
    """Renders and tokenises lines of chat samples as training does."""

    def __init__(self, folder: Path, train: Train) -> None:
        # data.num_processes says how many cores there are: threads of the tokenizer's own would
        # share them, and wait for each other where other work is going on.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.tokenizer, self.train = load_tokenizer(folder), train
        self.turn_end = self.tokenizer.token_to_id(TURN_END)

    def __call__(self, lines: Sequence[str]) -> list[Measured]:
        rendered: list[tuple[str, list[Span]]] = []
        faults: dict[int, str] = {}
        for number, line in enumerate(lines):
            sample = ChatSample.from_line(line)
            try:
                rendered.append((sample.id, spans(sample, self.train.loss_on, self.train.thinking)))
            except UserError as error:
                faults[number] = error.rule
        encoded = iter(encode(rendered, self.tokenizer))
        measured = []
        for number in range(len(lines)):
            answer = None if number in faults else next(encoded)
            if answer is None:
                measured.append(Measured(fault=faults[number]))
            elif isinstance(answer, UserError):
                measured.append(Measured(fault=answer.rule))
            else:
                targets = answer.ids[answer.mask]
                measured.append(
                    Measured(len(answer.ids), len(targets), bool(targets[-1] == self.turn_end))
                )
        return measured
