"""The sizes of the model that a recipe names, without loading it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toolgenesis_sft.config import Recipe
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import Json
from toolgenesis_sft.runs import read_json


@dataclass(frozen=True)
class ModelShape:
    """A Qwen3-like decoder: gated MLP, grouped key and value heads, no biases. The fields are
    named as in a Hugging Face config.json."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    tie_word_embeddings: bool

    @property
    def embedding_parameters(self) -> int:
        return self.vocab_size * self.hidden_size

    @property
    def layer_parameters(self) -> int:
        """Projections, MLP, two norms, and the norms of query and key heads."""
        width = self.num_attention_heads * self.head_dim
        kv_width = self.num_key_value_heads * self.head_dim
        attention = self.hidden_size * (2 * width + 2 * kv_width) + 2 * self.head_dim
        mlp = 3 * self.hidden_size * self.intermediate_size
        return attention + mlp + 2 * self.hidden_size

    @property
    def num_parameters(self) -> int:
        tables = 1 if self.tie_word_embeddings else 2
        layers = self.num_hidden_layers * self.layer_parameters
        return tables * self.embedding_parameters + layers + self.hidden_size

    @classmethod
    def from_config(cls, config: dict[str, Json], source: str) -> ModelShape:
        fields = {"tie_word_embeddings": False, **config}
        missing = [name for name in cls.__dataclass_fields__ if name not in fields]
        if missing:
            raise UserError(
                "model.name_or_path",
                source,
                f"its config.json has no {', '.join(missing)}",
                "name a Qwen3-like decoder",
            )
        return cls(**{name: fields[name] for name in cls.__dataclass_fields__})


# Model cards and config.json of the dense Qwen3 family (Qwen, 2025).
QWEN3_SHAPES = {
    "Qwen3-0.6B": ModelShape(151_936, 1024, 28, 16, 8, 128, 3072, True),
    "Qwen3-1.7B": ModelShape(151_936, 2048, 28, 16, 8, 128, 6144, True),
    "Qwen3-4B": ModelShape(151_936, 2560, 36, 32, 8, 128, 9728, True),
    "Qwen3-8B": ModelShape(151_936, 4096, 36, 32, 8, 128, 12_288, False),
    "Qwen3-14B": ModelShape(151_936, 5120, 40, 40, 8, 128, 17_408, False),
    "Qwen3-32B": ModelShape(151_936, 5120, 64, 64, 8, 128, 25_600, False),
}


def model_shape(recipe: Recipe) -> ModelShape:
    """From the recipe, the model folder's config.json, or the table of the Qwen3 family."""
    random = recipe.model.random
    if random is not None:
        return ModelShape(
            vocab_size=random.vocab_size,
            hidden_size=random.hidden_size,
            num_hidden_layers=random.num_layers,
            num_attention_heads=random.num_heads,
            num_key_value_heads=random.num_kv_heads,
            head_dim=random.head_dim,
            intermediate_size=random.intermediate_size,
            tie_word_embeddings=False,
        )
    name = recipe.model.name_or_path or ""
    config = Path(name).expanduser() / "config.json"
    if config.exists():
        return ModelShape.from_config(read_json(config), name)
    family = Path(name).name.removesuffix("-Base")
    if family in QWEN3_SHAPES:
        return QWEN3_SHAPES[family]
    return ModelShape.from_config(read_json(_cached_config(name)), name)


def _cached_config(name: str) -> Path:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        found = None
    if not isinstance(found, str):
        raise UserError(
            "model.name_or_path",
            name,
            "its size is not known here",
            f"download it (`hf download {name} config.json`), or name a folder",
        )
    return Path(found)
