"""The tokenizer folder: built here, read by us and by inference servers alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from toolgenesis_sft.config import Model, RandomModel, Recipe
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import Message, ToolCall, ToolSchema
from toolgenesis_sft.runs import RunFolder
from toolgenesis_sft.training.chat import render
from toolgenesis_sft.training.tokenizer import (
    digest,
    load_tokenizer,
    resolve_tokenizer,
    special_ids,
    train_tokenizer,
)

SERVERS = Path(__file__).parents[2] / "data/mini/servers"
TEXTS = [path.read_text(encoding="utf-8") for path in sorted(SERVERS.glob("*.py"))[:8]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TEXTS, 700, folder, thinking=False, max_length=4096)
    return folder


def test_the_same_texts_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    train_tokenizer(TEXTS, 700, tmp_path, thinking=False, max_length=4096)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()
    assert digest(folder) == digest(tmp_path)


def test_the_digest_sees_a_change_of_any_tokenizer_file(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = tmp_path / "tokenizer_config.json"
    config.write_text(config.read_text().replace("4096", "4097"))
    assert digest(folder) != digest(tmp_path)


def test_the_vocabulary_keeps_its_bound_and_covers_every_byte(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert tokenizer.get_vocab_size() <= 700
    text = 'é 漢 🦜\x00\t"x"\r\n  1234 it\'s'
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_text_is_split_as_qwen_splits_it(folder: Path) -> None:
    pieces = load_tokenizer(folder).pre_tokenizer.pre_tokenize_str("it's  12\n\n x")
    assert [piece.replace("Ġ", " ").replace("Ċ", "\n") for piece, _ in pieces] == [
        "it",
        "'s",
        " ",
        " ",
        "1",
        "2",
        "\n\n",
        " x",
    ]


def test_control_tokens_and_markup_are_single_tokens(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    text = "<|im_start|><think></think><tool_call></tool_call><tool_response></tool_response>"
    assert len(tokenizer.encode(text + "<|im_end|><|endoftext|>").ids) == 9
    ids = special_ids(tokenizer)
    assert (tokenizer.id_to_token(ids.turn_end), tokenizer.id_to_token(ids.pad)) == (
        "<|im_end|>",
        "<|endoftext|>",
    )
    assert ids.stop == (ids.turn_end, ids.pad)


def test_markup_stays_in_decoded_answers_and_control_tokens_go(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    text = "<tool_call>\n{}\n</tool_call>"
    assert tokenizer.decode(tokenizer.encode(text + "<|im_end|>").ids) == text


def test_transformers_loads_the_folder_and_encodes_alike(folder: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(folder)
    assert (theirs.eos_token, theirs.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert theirs.model_max_length == 4096
    text = render(MESSAGES, TOOLS)
    assert theirs.encode(text) == load_tokenizer(folder).encode(text).ids


MESSAGES = (
    Message(role="system", content="Kürze!"),
    Message(role="user", content="Rain?"),
    Message(
        role="assistant",
        content="Hm.",
        tool_calls=(ToolCall(name="weather", arguments={"city": "Köln", "days": [1, 2.5]}),),
    ),
    Message(role="tool", content="dry"),
    Message(role="tool", content="wet"),
    Message(role="assistant", content="Both."),
    Message(role="user", content="Sure?"),
)
TOOLS = (ToolSchema(name="weather", description="Wetter", input_schema={"type": "object"}),)


def as_openai() -> dict[str, Any]:
    """MESSAGES and TOOLS as the body of a chat completion request."""
    messages: list[dict[str, Any]] = []
    for message in MESSAGES:
        entry: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            entry["tool_calls"] = [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {
                        "name": call.name,
                        "arguments": json.dumps(call.arguments, ensure_ascii=False),
                    },
                }
                for call in message.tool_calls
            ]
        messages.append(entry)
    tool = TOOLS[0]
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.input_schema,
    }
    return {"conversation": messages, "tools": [{"type": "function", "function": function}]}


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("loss_on", ["all_turns", "last_turn"])
def test_a_server_that_names_no_mode_renders_the_recipes(
    tmp_path: Path, thinking: bool, loss_on: Any
) -> None:
    train_tokenizer(TEXTS[:1], 300, tmp_path, thinking, max_length=4096, loss_on=loss_on)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    rendered = theirs.apply_chat_template(**as_openai(), tokenize=False, add_generation_prompt=True)
    assert rendered == render(
        MESSAGES,
        TOOLS,
        add_generation_prompt=True,
        thinking=thinking,
        keep_turns=loss_on == "all_turns",
    )


def test_a_request_may_still_name_the_mode(folder: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(folder)
    rendered = theirs.apply_chat_template(
        [{"role": "user", "content": "Hi"}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=True,
    )
    assert rendered.endswith("<|im_start|>assistant\n")


def recipe(**model: Any) -> Recipe:
    return Recipe(name="r", model=Model(**model))


def test_a_random_models_tokenizer_lies_with_its_data(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert resolve_tokenizer(recipe(random=RandomModel()), run) == tmp_path / "data/tokenizer"


def test_a_model_folder_brings_its_own_tokenizer(folder: Path, tmp_path: Path) -> None:
    assert resolve_tokenizer(recipe(name_or_path=str(folder)), RunFolder(tmp_path)) == folder


def test_a_model_that_is_nowhere_is_refused_with_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"Qwen/Qwen3-8B.*hf download Qwen/Qwen3-8B"):
        resolve_tokenizer(recipe(name_or_path="Qwen/Qwen3-8B"), RunFolder(tmp_path))


def test_a_folder_without_a_chatml_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no tokenizer\.json"):
        load_tokenizer(tmp_path)
    text = (folder / "tokenizer.json").read_text().replace("<|im_end|>", "</s>")
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(UserError, match=r"im_end.*not in the vocabulary"):
        load_tokenizer(tmp_path)
