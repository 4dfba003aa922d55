"""all-MiniLM-L6-v2 in numpy.

The reference cosines were computed once with torch 2.13 and transformers 5.23 (`BertModel` on the
same weights, mean over the tokens, 256 tokens at most, float64 dot product).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from toolgenesis_sft.errors import UserError
from toolgenesis_sft.scoring import embedding
from toolgenesis_sft.scoring.embedding import cosine, embed

TORCH_COSINES = [
    ("get weather", "fetch the forecast", 0.518760),
    ("add two numbers", "subtract one number from another", 0.614023),
    ("stock level of an item", "inventory count", 0.556387),
    ("send email", "molar mass of a compound", 0.084995),
    ("", "text", 0.269563),
    ("temperature: degrees Celsius", "celsius", 0.854067),
    ("word " * 600, "word", 0.439706),
]


@pytest.mark.parametrize(("a", "b", "expected"), TORCH_COSINES)
def test_a_cosine_is_that_of_torch_on_the_same_weights(a: str, b: str, expected: float) -> None:
    assert cosine(a, b) == pytest.approx(expected, abs=1.5e-6)
    assert cosine(a, b) == cosine(b, a)


def test_an_embedding_has_384_components_and_length_one() -> None:
    assert embed("a tool").shape == (384,)
    assert np.linalg.norm(embed("a tool")) == pytest.approx(1.0, abs=1e-6)


def test_an_embedding_does_not_depend_on_what_was_embedded_before() -> None:
    texts = ["one", "a longer text about two tools", "three " * 40]
    first = [embed(text).tobytes() for text in texts]
    embed.cache_clear()
    again = {text: embed(text).tobytes() for text in reversed(texts)}
    assert [again[text] for text in texts] == first


def test_a_text_is_embedded_once_and_its_embedding_cannot_be_changed() -> None:
    assert embed("cached") is embed("cached")
    with pytest.raises(ValueError, match="read-only"):
        embed("cached")[0] = 0.0


def test_equal_texts_have_cosine_one_exactly() -> None:
    assert cosine("the same", "the same") == 1.0


def test_what_follows_256_tokens_is_not_read() -> None:
    assert cosine("word " * 300, "word " * 300 + "something else") == pytest.approx(1.0, abs=1e-6)


def test_hostile_texts_are_embedded_all_the_same() -> None:
    for text in ("\ud800 lone surrogate", "\x00\x1b[31m", "x" * 1_000_000, "\u202e" * 50):
        assert np.isfinite(embed(text)).all()


def test_embedding_imports_neither_torch_nor_sentence_transformers() -> None:
    program = (
        "import sys\n"
        "from toolgenesis_sft.scoring.embedding import cosine\n"
        "cosine('one text', 'another')\n"
        "print([m for m in ('torch', 'sentence_transformers', 'mcp') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"other")
    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.setenv(embedding.FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(UserError, match="must be the published weights"):
        embedding.load.__wrapped__()


def test_missing_weights_are_named_with_the_way_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(embedding.FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        embedding.model_folder()
    monkeypatch.delenv(embedding.FOLDER_VARIABLE)
    monkeypatch.setattr(embedding, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match=r"toolgenesis-sft\[score\]"):
        embedding.model_folder()
