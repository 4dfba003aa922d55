"""One sample as the model will see it, on a terminal: supervised tokens in colour."""

from __future__ import annotations

import os
import sys
from itertools import pairwise

import numpy as np

from toolgenesis_sft.config import Recipe
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import ChatSample
from toolgenesis_sft.runs import RunFolder
from toolgenesis_sft.training.tokenizer import load_tokenizer, resolve_tokenizer
from toolgenesis_sft.training.tokens import tokenize

SUPERVISED = ("\x1b[30;42m", "\x1b[30;102m")  # two greens, so that neighbouring tokens show
PLAIN, END = "\x1b[2m", "\x1b[0m"
OPEN, CLOSE = "[[", "]]"  # where there is no colour


def show(recipe: Recipe, run: RunFolder, sample_id: str) -> str:
    """The sample's text with the tokens that carry the loss marked, and what they count to.

    Colours on a terminal, `[[ ]]` elsewhere or with NO_COLOR. Raises UserError where the run has
    no such sample.
    """
    sample = find(run, sample_id)
    tokenizer = load_tokenizer(resolve_tokenizer(recipe, run))
    tokens = tokenize(sample, tokenizer, recipe.train)
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    head = (
        f"{sample.id}: {sample.kind}, {len(tokens.ids)} tokens, {int(tokens.mask.sum())} of them"
        f" supervised; source {sample.source}, licence {sample.licence}\n\n"
    )
    edges = np.flatnonzero(np.diff(tokens.mask.astype(np.int8))) + 1
    runs = [
        (bool(tokens.mask[start]), tokens.ids[start:stop].tolist())
        for start, stop in pairwise([0, *edges.tolist(), len(tokens.ids)])
    ]
    body = []
    for supervised, ids in runs:
        if not colour:
            text = tokenizer.decode(ids, skip_special_tokens=False)
            body.append(OPEN + text + CLOSE if supervised else text)
        elif supervised:
            pieces = (tokenizer.decode([i], skip_special_tokens=False) for i in ids)
            body += [SUPERVISED[n % 2] + piece + END for n, piece in enumerate(pieces)]
        else:
            body.append(PLAIN + tokenizer.decode(ids, skip_special_tokens=False) + END)
    return head + "".join(body)


def find(run: RunFolder, sample_id: str) -> ChatSample:
    if not (run.data / "manifest.json").exists():
        raise UserError("--show", sample_id, "there is no data set yet", "run build without --show")
    for name in ("train.jsonl", "val.jsonl"):
        with (run.data / name).open("rb") as file:
            for line in file:
                sample = ChatSample.from_line(line)
                if sample.id == sample_id:
                    return sample
    raise UserError(
        "--show", sample_id, "is no sample of this run", f"see the ids in {run.data}/train.jsonl"
    )
