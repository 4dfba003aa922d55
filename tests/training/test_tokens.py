"""From a chat file to token ids and a mask, exact and cached."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolgenesis_sft.config import Data, Model, RandomModel, Recipe, Train
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import ChatSample, Message, ToolCall
from toolgenesis_sft.runs import RunFolder
from toolgenesis_sft.training import tokens as module
from toolgenesis_sft.training.chat import render, spans
from toolgenesis_sft.training.tokenizer import load_tokenizer, train_tokenizer
from toolgenesis_sft.training.tokens import (
    GrowingArray,
    TokenCache,
    load_tokens,
    tokenize,
    what_shapes_tokens,
)

SERVERS = Path(__file__).parents[2] / "data/mini/servers"
TEXTS = [path.read_text(encoding="utf-8") for path in sorted(SERVERS.glob("*.py"))[:8]]


def chat(number: int, *texts: str) -> ChatSample:
    roles = ("user", "assistant") * len(texts)
    messages = tuple(
        Message(role=role, content=text)  # type: ignore[arg-type]
        for role, text in zip(roles, texts, strict=False)
    )
    return ChatSample(id=f"s{number}", messages=messages, source="test", licence="CC0-1.0")


def recipe(**train: Any) -> Recipe:
    return Recipe(
        name="r",
        model=Model(random=RandomModel()),
        data=Data(max_tokens=64),
        train=Train(**{"max_row_tokens": 20_000, **train}),
    )


WriteRun = Callable[[Sequence[ChatSample]], RunFolder]


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TEXTS, 600, folder, thinking=False, max_length=4096)
    return folder


@pytest.fixture
def write_run(tmp_path: Path, tokenizer_folder: Path) -> WriteRun:
    """Write samples as a built data set and return its run folder."""

    def write(samples: Sequence[ChatSample]) -> RunFolder:
        run = RunFolder(tmp_path)
        (run.data / "tokenizer").mkdir(parents=True, exist_ok=True)
        for path in tokenizer_folder.iterdir():
            (run.data / "tokenizer" / path.name).write_bytes(path.read_bytes())
        lines = "".join(sample.to_line() for sample in samples)
        (run.data / "train.jsonl").write_text(lines, encoding="utf-8")
        (run.data / "manifest.json").write_text("{}")
        return run

    return write


def shown(sample: ChatSample, folder: Path, train: Train) -> list[tuple[str, bool]]:
    """Each token as text, and whether it is learnt."""
    tokenizer = load_tokenizer(folder)
    tokenized = tokenize(sample, tokenizer, train)
    texts = [
        tokenizer.decode([token], skip_special_tokens=False) for token in tokenized.ids.tolist()
    ]
    return list(zip(texts, tokenized.mask.tolist(), strict=True))


def test_a_multi_turn_mask_token_by_token(tokenizer_folder: Path) -> None:
    sample = chat(0, "a", "b", "c", "d")
    think = [("<think>", False), ("\n\n", False), ("</think>", False), ("\n\n", False)]

    def letters(text: str) -> list[tuple[str, bool]]:
        tokenizer = load_tokenizer(tokenizer_folder)
        return [(tokenizer.decode([token]), False) for token in tokenizer.encode(text).ids]

    def question(text: str) -> list[tuple[str, bool]]:
        turn = [("<|im_start|>", False), *letters(f"user\n{text}"), ("<|im_end|>", False)]
        return [*turn, ("\n", False), ("<|im_start|>", False), *letters("assistant\n"), *think]

    assert shown(sample, tokenizer_folder, Train()) == [
        *question("a"),
        ("b", True),
        ("<|im_end|>", True),
        ("\n", False),
        *question("c"),
        ("d", True),
        ("<|im_end|>", True),
        ("\n", False),
    ]


def test_loss_on_the_last_turn_learns_the_last_answer_only(tokenizer_folder: Path) -> None:
    tokens = shown(chat(0, "a", "b", "c", "d"), tokenizer_folder, Train(loss_on="last_turn"))
    assert [text for text, learnt in tokens if learnt] == ["d", "<|im_end|>"]


def test_calls_are_learnt_and_their_results_are_not(tokenizer_folder: Path) -> None:
    call = ToolCall(name="f", arguments={"x": 1})
    sample = ChatSample(
        id="s",
        messages=(
            Message(role="user", content="q"),
            Message(role="assistant", tool_calls=(call,)),
            Message(role="tool", content="result"),
            Message(role="assistant", content="done"),
        ),
        source="test",
        licence="CC0-1.0",
    )
    tokens = shown(sample, tokenizer_folder, Train())
    learnt = "".join(text for text, flag in tokens if flag)
    assert learnt == (
        '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call><|im_end|>done<|im_end|>'
    )


def test_the_prompt_is_an_exact_token_prefix(tokenizer_folder: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    for text in TEXTS:
        sample = chat(0, "Build it.\n", text)
        tokenized = tokenize(sample, tokenizer, Train())
        prompt = tokenizer.encode(render(sample.messages[:1], add_generation_prompt=True)).ids
        assert tokenized.ids[: len(prompt)].tolist() == prompt
        assert not tokenized.mask[: len(prompt)].any()
        assert tokenized.mask[len(prompt)]
        assert tokenized.ids.tolist() == tokenizer.encode(render(sample.messages)).ids


def test_an_answer_whose_start_merges_with_the_prompt_is_refused(tmp_path: Path) -> None:
    # "\n\n" ends the prompt, " \nb" begins the answer, and "\n\n \n" is a token here.
    train_tokenizer(["x\n\n \ny"] * 9, 300, tmp_path, thinking=False, max_length=4096)
    with pytest.raises(UserError, match=r"s7: its prompt is not an exact token prefix"):
        tokenize(chat(7, "a", " \nb"), load_tokenizer(tmp_path), Train())


def test_an_answer_is_refused_exactly_where_the_whole_text_gives_other_tokens(
    tmp_path: Path,
) -> None:
    train_tokenizer(["x\n\n \ny\n\n\n  z"] * 9, 300, tmp_path, thinking=False, max_length=4096)
    tokenizer = load_tokenizer(tmp_path)
    outcomes = set()
    for lead in map("".join, itertools.product(["", " ", "\n", "\t"], repeat=4)):
        sample = chat(0, "a", lead + "x")
        whole = tokenizer.encode(render(sample.messages)).ids
        parts = [tokenizer.encode(span.text).ids for span in spans(sample, "last_turn", False)]
        exact = list(itertools.chain.from_iterable(parts)) == whole
        outcomes.add(exact)
        if exact:
            assert tokenize(sample, tokenizer, Train()).ids.tolist() == whole
        else:
            with pytest.raises(UserError, match="not an exact token prefix"):
                tokenize(sample, tokenizer, Train())
    assert outcomes == {True, False}


def test_the_set_holds_every_sample_in_file_order(write_run: WriteRun) -> None:
    samples = [chat(number, f"q{number}", TEXTS[number % len(TEXTS)]) for number in range(7)]
    run = write_run(samples)
    found = load_tokens(recipe(), run)
    assert list(found.sample_ids) == [sample.id for sample in samples]
    tokenizer = load_tokenizer(run.data / "tokenizer")
    for number, sample in enumerate(samples):
        alone = tokenize(sample, tokenizer, recipe().train)
        assert found[number].id == alone.id
        assert np.array_equal(found[number].ids, alone.ids)
        assert np.array_equal(found[number].mask, alone.mask)
        assert found.lengths[number] == len(alone.ids)
        assert found.num_supervised[number] == alone.mask.sum()
    assert (found.ids.dtype, found.mask.dtype) == (np.int32, np.bool_)


def test_batches_do_not_show_in_the_result(
    write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run([chat(number, "q", f"answer {number}") for number in range(10)])
    whole = load_tokens(recipe(), run)
    monkeypatch.setattr(module, "SAMPLES_PER_BATCH", 3)
    cut = load_tokens(recipe(max_row_tokens=20_001), run)
    assert cut.fingerprint != whole.fingerprint
    assert np.array_equal(whole.ids, cut.ids)
    assert np.array_equal(whole.offsets, cut.offsets)


def test_a_second_load_reads_the_cache(
    write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run([chat(0, "q", "a")])
    first = load_tokens(recipe(), run)
    monkeypatch.setattr(module, "read_tokenized", None)  # calling it would fail
    assert np.array_equal(load_tokens(recipe(), run).ids, first.ids)


@pytest.mark.parametrize("changed", ["data", "tokenizer", "template", "options", "code"])
def test_whatever_shapes_the_tokens_makes_a_new_cache(
    write_run: WriteRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changed: str
) -> None:
    run = write_run([chat(0, "q", "a")])
    train, source = recipe().train, run.data / "train.jsonl"
    folder = run.data / "tokenizer"
    before = what_shapes_tokens(train, source, folder)
    match changed:
        case "data":
            write_run([chat(0, "q", "b")])
        case "tokenizer":
            (folder / "merges.txt").write_text("a b")
        case "template":
            monkeypatch.setattr(module, "CHAT_TEMPLATE", "another")
        case "options":
            train = recipe(loss_on="last_turn").train
        case "code":
            monkeypatch.setattr(module, "__file__", str(source))
    after = what_shapes_tokens(train, source, folder)
    assert [key for key in before if before[key] != after[key]] == [changed]


def test_a_cache_that_was_cut_short_is_made_again(
    write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run([chat(number, "q", "a") for number in range(3)])

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_json", dies)
        with pytest.raises(KeyboardInterrupt):
            load_tokens(recipe(), run)
    assert len(load_tokens(recipe(), run)) == 3


def test_a_damaged_cache_is_named(write_run: WriteRun) -> None:
    run = write_run([chat(0, "q", "a")])
    load_tokens(recipe(), run)
    [path] = run.data.glob("tokens/train-*/ids.npy")
    np.save(path, np.zeros(3, np.int32))
    with pytest.raises(UserError, match=r"ids\.npy.*not what its manifest says.*made again"):
        load_tokens(recipe(), run)


def test_processes_that_load_at_once_share_one_cache(write_run: WriteRun) -> None:
    run = write_run([chat(number, "q", "a" * number) for number in range(1, 50)])
    with ThreadPoolExecutor(4) as pool:
        sets = list(pool.map(lambda _: load_tokens(recipe(), run), range(4)))
    assert all(np.array_equal(each.ids, sets[0].ids) for each in sets)
    assert len(list(run.data.glob("tokens/train-*"))) == 1


def test_a_sample_longer_than_a_row_fails_by_name_and_is_not_cut(write_run: WriteRun) -> None:
    run = write_run([chat(0, "q", "a"), chat(1, "q", "word " * 400)])
    with pytest.raises(UserError) as refusal:
        load_tokens(recipe(max_row_tokens=256), run)
    message = str(refusal.value)
    assert "train.jsonl: line 2 = s1" in message
    assert "a row holds 256" in message
    assert "never cut" in message
    assert not list(run.data.glob("tokens/train-*"))


def test_a_wrong_role_order_names_the_file_the_line_and_the_sample(write_run: WriteRun) -> None:
    run = write_run([chat(0, "q", "a"), chat(1, "q", "a", "q")])
    with pytest.raises(UserError, match=r"train\.jsonl: line 2 = s1: the last message"):
        load_tokens(recipe(), run)


def test_a_line_that_is_no_sample_is_named(write_run: WriteRun) -> None:
    run = write_run([chat(0, "q", "a")])
    with (run.data / "train.jsonl").open("a") as file:
        file.write(json.dumps({"id": "x"}) + "\n")
    with pytest.raises(UserError, match=r"train\.jsonl: line 2 = messages: is no chat sample"):
        load_tokens(recipe(), run)


def test_an_empty_data_set_is_refused(write_run: WriteRun) -> None:
    with pytest.raises(UserError, match=r"train\.jsonl: is empty"):
        load_tokens(recipe(), write_run([]))


def test_no_data_set_is_refused_with_the_stage_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="toolgenesis-sft build"):
        load_tokens(recipe(), RunFolder(tmp_path))


def test_a_missing_or_empty_validation_set_is_an_empty_set(write_run: WriteRun) -> None:
    run = write_run([chat(0, "q", "a")])
    assert len(load_tokens(recipe(), run, "val")) == 0
    (run.data / "val.jsonl").write_text("")
    assert len(load_tokens(recipe(), run, "val")) == 0
    (run.data / "val.jsonl").write_text(chat(5, "q", "a").to_line())
    assert list(load_tokens(recipe(), run, "val").sample_ids) == ["s5"]


def test_a_growing_array_is_a_plain_npy_file(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    with GrowingArray(path, np.dtype(np.int32)) as array:
        for start in range(0, 100_000, 1_000):
            array.append(np.arange(start, start + 1_000))
    assert np.array_equal(np.load(path, mmap_mode="r"), np.arange(100_000))


def test_the_cache_folder_is_named_by_split_and_fingerprint(tmp_path: Path) -> None:
    one, other = TokenCache(tmp_path, "train", {"a": 1}), TokenCache(tmp_path, "val", {"a": 1})
    assert one.fingerprint == other.fingerprint
    assert one.folder != other.folder
