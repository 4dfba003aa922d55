"""Counting words gives the very numbers that encoding gives."""

from __future__ import annotations

import random
from itertools import chain, pairwise
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers

from toolgenesis_sft.config import Train
from toolgenesis_sft.corpus.tokens import ASCII_WORDS, Measured, Measurer, splits_as_qwen
from toolgenesis_sft.records import ChatSample, Message
from toolgenesis_sft.training.chat import MARKUP_TOKENS, render
from toolgenesis_sft.training.tokenizer import QWEN_WORDS, train_tokenizer

PROGRAMS = sorted((Path(__file__).parents[2] / "data" / "mini" / "servers").glob("*.py"))
# What words are split at, what is glued to them, and what is a token of its own.
PIECES = (" ", "  ", "\n", "\n\n", "\r\n", "\t", "'s", "'LL", "'", "-", "...", "(", "x", "Tool")
PIECES += ("42", "_", "\x0b", "\x1c", "\x00", *MARKUP_TOKENS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    programs = (render([Message(role="user", content=p.read_text())]) for p in PROGRAMS)
    texts = chain(programs, ["x\n\n  \n" * 1000])  # a word that a prompt and an answer can share
    train_tokenizer(texts, 2000, folder, thinking=False, max_length=4096)
    return folder


def sample(*contents: str) -> ChatSample:
    messages = [
        Message(role=role, content=text)
        for text, role in zip(contents, ("user", "assistant") * len(contents), strict=False)
    ]
    return ChatSample(
        id="one", messages=tuple(messages), kind="trajectory", source="here", licence="MIT"
    )


def both_ways(folder: Path, samples: list[ChatSample], train: Train) -> tuple[list[Measured], int]:
    """What counting says, after it was compared with encoding; and how many were encoded."""
    counting, encoding = Measurer(folder, train), Measurer(folder, train)
    encoding.words = None
    lines = [sample.to_line() for sample in samples]
    counted = counting(lines)
    assert counted == encoding(lines)
    assert counting.words is not None
    words = counting.words
    return counted, sum(words.measure(pieces) is None for pieces in map(counting.pieces, samples))


def test_words_of_ascii_text_are_those_that_the_tokenizer_splits_it_into() -> None:
    split = pre_tokenizers.Split(Regex(QWEN_WORDS), "isolated")
    rng = random.Random(0)
    for _ in range(3000):
        text = "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 12)))
        text += "".join(chr(rng.randrange(128)) for _ in range(rng.randint(0, 6)))
        assert ASCII_WORDS.findall(text) == [word for word, _ in split.pre_tokenize_str(text)]


@pytest.mark.parametrize("train", [Train(), Train(thinking=True), Train(loss_on="last_turn")])
def test_counts_are_those_of_encoding(folder: Path, train: Train) -> None:
    rng = random.Random(1)
    texts = [
        "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 30))).replace("think>", "t>")
        for _ in range(400)
    ]
    samples = [sample(a, b + "x", "more " + b, a + "y") for a, b in pairwise(texts)]
    samples += [sample("Build a server.", path.read_text()) for path in PROGRAMS]
    _, num_encoded = both_ways(folder, samples, train)
    assert num_encoded < len(samples) / 2


def test_text_beyond_ascii_is_encoded(folder: Path) -> None:
    strange = [sample("Grüße", "Ça va? 你好 ½ ẛ̣"), sample("e\u0301 and \u00e9", "ok")]
    measured, num_encoded = both_ways(folder, strange, Train())
    assert num_encoded == 2
    assert all(facts.num_supervised > 1 for facts in measured)


def test_an_answer_whose_first_characters_merge_with_its_prompt_is_a_fault(folder: Path) -> None:
    [facts], num_encoded = both_ways(folder, [sample("Hello", "  \n  ok")], Train())
    assert num_encoded == 1
    assert "merge" in facts.fault


@pytest.mark.parametrize(
    "other",
    [
        pre_tokenizers.Whitespace(),
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(r"\d+"), "isolated"), pre_tokenizers.ByteLevel()]
        ),
    ],
)
def test_a_tokenizer_that_splits_otherwise_encodes_everything(
    folder: Path, other: pre_tokenizers.PreTokenizer
) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert splits_as_qwen(tokenizer)
    tokenizer.pre_tokenizer = other
    assert not splits_as_qwen(tokenizer)


def test_added_tokens_that_take_their_neighbours_space_are_not_counted(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken("<greedy>", lstrip=True)])
    assert not splits_as_qwen(tokenizer)
