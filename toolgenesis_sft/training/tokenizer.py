"""The tokenizer folder: trained for a random-weight model, found for a published one.

Both kinds are the same set of files, read here with `tokenizers` alone and by an inference server
with transformers' AutoTokenizer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from toolgenesis_sft.config import Recipe
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.runs import RunFolder, write_json, write_text
from toolgenesis_sft.training.chat import (
    END_OF_TEXT,
    MARKUP_TOKENS,
    TURN_END,
    TURN_TOKENS,
    LossOn,
    chat_template,
)

# Where Qwen2 and Qwen3 split text before byte-pair encoding: contractions, words with one leading
# mark, single digits, punctuation with its line ends, line ends, spaces.
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)


@dataclass(frozen=True)
class SpecialIds:
    """Token ids that training, export and generation share. `stop` ends a generation: the end of
    a turn first, then the end of a text."""

    turn_end: int
    pad: int
    stop: tuple[int, ...]


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    folder: Path,
    thinking: bool,
    max_length: int,
    loss_on: LossOn = "all_turns",
) -> None:
    """Train a byte-level BPE as Qwen's is built, with its special tokens, and write its folder.

    vocab_size is an upper bound, special tokens included. The same texts in the same order give
    the same bytes. max_length is the longest sequence in tokens that servers may accept.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    # Markup (think, tool calls) is a single token but no special one: it stays in decoded text.
    control = [AddedToken(token, special=True, normalized=False) for token in TURN_TOKENS]
    markup = [AddedToken(token, special=False, normalized=False) for token in MARKUP_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(markup),
        special_tokens=control,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(markup)
    write_text(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": TURN_END,
            "pad_token": END_OF_TEXT,
            "model_max_length": max_length,
            "clean_up_tokenization_spaces": False,
            "padding_side": "right",
        },
    )
    write_text(folder / "chat_template.jinja", chat_template(thinking, loss_on))


def load_tokenizer(folder: Path) -> Tokenizer:
    """Raises UserError where the folder has no fast tokenizer or lacks a ChatML token."""
    path = folder / "tokenizer.json"
    if not path.exists():
        raise UserError(
            "tokenizer",
            str(folder),
            "holds no tokenizer.json",
            "run `toolgenesis-sft build` first, or name a model folder with a fast tokenizer",
        )
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    special_ids(tokenizer)
    return tokenizer


def special_ids(tokenizer: Tokenizer) -> SpecialIds:
    """The ids of the ChatML tokens. Raises UserError where one is not a token of its own."""
    ids = {}
    for token in TURN_TOKENS:
        number = tokenizer.token_to_id(token)
        if number is None:
            raise UserError(
                "tokenizer", token, "is not in the vocabulary", "take a model that speaks ChatML"
            )
        ids[token] = number
    return SpecialIds(ids[TURN_END], ids[END_OF_TEXT], (ids[TURN_END], ids[END_OF_TEXT]))


def resolve_tokenizer(recipe: Recipe, run: RunFolder) -> Path:
    """The folder of the tokenizer that the recipe's model comes with."""
    name = recipe.model.name_or_path
    if name is None:
        return run.data / "tokenizer"
    folder = Path(name).expanduser()
    return folder if folder.is_dir() else hub_folder(name)


def hub_folder(name: str) -> Path:
    """A hub model's tokenizer files: from the cache where they are, else downloaded once."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = [*TOKENIZER_FILES, "config.json", "generation_config.json"]
    try:
        folder = Path(snapshot_download(name, allow_patterns=wanted, local_files_only=True))
        if (folder / "tokenizer.json").exists():
            return folder
    except LocalEntryNotFoundError:
        pass
    except HFValidationError as error:
        raise _no_model(name, "is neither a folder nor a hub name") from error
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise _no_model(name, "is not in the hub cache and cannot be downloaded") from error


def _no_model(name: str, rule: str) -> UserError:
    return UserError(
        "model.name_or_path",
        name,
        rule,
        f"download it where there is a network (`hf download {name}`), or name a folder",
    )


def digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of the files that shape how text becomes tokens."""
    total = hashlib.sha256()
    for name in TOKENIZER_FILES:
        path = folder / name
        if path.exists():
            content = path.read_bytes()
            total.update(f"{name}:{len(content)}:".encode())
            total.update(content)
    return total.hexdigest()
