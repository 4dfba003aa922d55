"""The models that a stage asks: which, by what label, whether they are whole, and their digests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from toolgenesis_sft.client import is_local, read_key
from toolgenesis_sft.config import Generate, Recipe, resolve_path
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import BEFORE, TRAINED, ServerPrediction
from toolgenesis_sft.runs import (
    COMPLETE,
    MODEL_SUFFIXES,
    RunFolder,
    fingerprint,
    model_digest,
    read_json,
    sha256_file,
)


@dataclass(frozen=True)
class AskedModel:
    """A model under a label of the report. `folder` is None for a model behind an endpoint.

    digest: SHA-256 of what answers: weights, configuration and tokenizer, or URL and name.
    """

    label: str
    source: str
    folder: Path | None
    digest: str


def asked_models(recipe: Recipe, run: RunFolder) -> list[AskedModel]:
    """The models by label, checked before any of them is started."""
    check_own_folders(recipe, run)
    settings = recipe.generate
    if settings.engine == "endpoint":
        name = endpoint_model_name(settings)
        return [AskedModel(name, name, None, fingerprint([settings.endpoint_url, name]))]
    models = []
    if settings.compare_before_training:
        if recipe.model.name_or_path is None:
            models.append(own_model(BEFORE, run.base_model))
        else:
            models.append(named_model(BEFORE, "model.name_or_path", recipe.model.name_or_path))
    if settings.model is not None:
        folder = resolve_path(settings.model)
        label = folder.absolute().name if folder.is_dir() else settings.model
        models.append(named_model(label, "generate.model", settings.model))
    else:
        models.append(own_model(TRAINED, run.export))
    return models


def check_own_folders(recipe: Recipe, run: RunFolder) -> None:
    """Raises UserError where a model that an earlier stage writes is not there, or not whole. No
    weights are read, no hub and no endpoint is asked."""
    settings = recipe.generate
    if settings.engine == "endpoint":
        return
    if settings.compare_before_training and recipe.model.name_or_path is None:
        check_model_folder("model.random", run.base_model, marked=True)
    if settings.model is None:
        check_model_folder("export", run.export, marked=True)


def own_model(label: str, folder: Path) -> AskedModel:
    """Of a folder that was checked."""
    return AskedModel(label, str(folder), folder, folder_digest(folder))


def named_model(label: str, field: str, name: str) -> AskedModel:
    folder = resolve_path(name)
    if not folder.is_dir():
        folder = hub_folder(field, name)
    check_model_folder(field, folder, marked=False)
    return AskedModel(label, name, folder.absolute(), folder_digest(folder))


def refuse_other_checkpoints(
    run: RunFolder, models: Sequence[AskedModel], done: Sequence[ServerPrediction]
) -> None:
    """Raises UserError where a checkpoint changed since: its predictions are neither mixed with
    new ones nor thrown away in silence."""
    answered = {prediction.model for prediction in done}
    if not answered:
        return
    stored = read_json(run.provenance) if run.provenance.exists() else {}
    digests = stored.get("generate", {}).get("models", {})
    for model in models:
        if model.label in answered and digests.get(model.label, {}).get("digest") != model.digest:
            raise UserError(
                "predictions",
                str(run.predictions),
                f"were made by another `{model.label}` than {model.source} is now",
                f"remove {run.predictions.name} to ask the new one, or give --run NEW_NAME",
            )


def check_model_folder(field_name: str, folder: Path, marked: bool) -> None:
    """Raises UserError where a folder cannot be served: missing, unfinished, not a causal model.

    marked: the folder was written by this package, so it must end with the COMPLETE marker.
    """

    def refuse(rule: str, next_step: str) -> UserError:
        return UserError(field_name, str(folder), rule, next_step)

    if not folder.is_dir():
        writer = "train" if field_name == "model.random" else "export"
        raise refuse("is not there", f"run `toolgenesis-sft {writer}` first, or name another")
    if marked and not (folder / COMPLETE).exists():
        raise refuse("is not finished (no COMPLETE)", "run the stage that writes it again")
    if not (folder / "config.json").exists():
        next_step = "name a Hugging Face model folder, or a hub name"
        if (folder / "latest").exists() or list(folder.glob("**/*_model_states.pt")):
            next_step = "this is a training checkpoint: run `toolgenesis-sft export` and name that"
        raise refuse("holds no config.json", next_step)
    names = read_json(folder / "config.json").get("architectures") or []
    if not any(str(name).endswith("ForCausalLM") for name in names):
        raise refuse(
            f"has the architecture {names or 'unknown'}",
            "name a causal language model (...ForCausalLM)",
        )
    if not any(
        (folder / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")
    ):
        raise refuse("holds no tokenizer", "copy the tokenizer files of its base model into it")
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = set(read_json(index)["weight_map"].values())
        missing = sorted(name for name in shards if not (folder / name).exists())
        if missing:
            raise refuse(f"lacks {missing[0]}", "the copy is unfinished: copy or export it again")
    elif not list(folder.glob("*.safetensors")) and not list(folder.glob("*.bin")):
        raise refuse("holds no weights", "copy the .safetensors files into it, or export it again")


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of weights, configuration and tokenizer."""
    model_files = (path for path in folder.iterdir() if path.suffix in MODEL_SUFFIXES)
    return model_digest({path.name: sha256_file(path) for path in model_files})


def hub_folder(field_name: str, name: str) -> Path:
    """A hub model's files: from the cache where they are whole, else downloaded."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, ignore_patterns=["*.pth", "*.gguf", "original/*"]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            field_name,
            name,
            "is no folder, and no hub model that can be had here",
            f"download it where there is a network (`hf download {name}`), or name a folder",
        ) from error


def endpoint_model_name(settings: Generate) -> str:
    """The model to ask for: the recipe's, else the only one that the endpoint offers."""
    if settings.endpoint_model is not None:
        return settings.endpoint_model
    assert settings.endpoint_url is not None
    url = settings.endpoint_url.rstrip("/") + "/models"
    key = read_key(settings.api_key_variable)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx.get(
            url, headers=headers, timeout=30, trust_env=not is_local(url)
        ).raise_for_status()
        names = [str(model["id"]) for model in answer.json()["data"]]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise UserError(
            "generate.endpoint_url",
            settings.endpoint_url,
            f"does not list its models ({type(error).__name__})",
            "check that it is up and its key is right, or set generate.endpoint_model",
        ) from error
    if len(names) != 1:
        raise UserError(
            "generate.endpoint_model",
            "not set",
            f"the endpoint offers {len(names)} models: {', '.join(names[:5])}",
            "set generate.endpoint_model to one of them",
        )
    return names[0]
