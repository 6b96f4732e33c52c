"""Reads what is to be evaluated: models and recipes, each with the settings it is scored under."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.dtypes import CODES, FLOATS
from evomerge.checkpoint.names import relocated
from evomerge.checkpoint.opening import open_model
from evomerge.core.errors import UserError
from evomerge.evaluate.outcomes import Mean
from evomerge.recipe.average import uniform
from evomerge.recipe.data import PARENTS
from evomerge.recipe.recipe import Recipe
from evomerge.study.config import OutputConfig, StudyConfig

_DTYPES = get_args(get_type_hints(OutputConfig)["dtype"])


@dataclass(frozen=True)
class Entrant:
    """A model or a recipe that is evaluated.

    Attributes:
        name: As it was given.
        recipe: What is built: for a model, the model as it is.
        config: Tasks and workers; its base is what lends the config and the tokenizer.
        ensemble: Whose mean is scored, of the recipe's models side by side; ``None``: they merge.
    """

    name: str
    recipe: Recipe
    config: StudyConfig
    ensemble: Mean | None = None


def entrants(
    models: Sequence[str], settings: Mapping[str, Any], folder: Path, dtype: str | None = None
) -> list[Entrant]:
    """Read models and recipes.

    Args:
        models: Folders, hub ids, either with ``+ADAPTER``, and files of recipes.
        settings: The sections ``evaluate`` and ``workers`` of a study file, and what may stand
            beside them.
        folder: What the paths in `settings` are relative to; those in `models` are to the working
            directory.
        dtype: What the models compute in; ``None`` is the one that transformers loads them in.

    Raises:
        UserError: There is none twice, no such model, or a setting is wrong.
    """
    if len(set(models)) < len(models):
        raise UserError(f"expected each model once, but got {', '.join(models)}")
    return [_entrant(model, settings, folder, dtype) for model in models]


def ensemble(
    mean: Mean,
    models: Sequence[str],
    settings: Mapping[str, Any],
    folder: Path,
    dtype: str | None = None,
) -> Entrant:
    """Return models side by side as what is evaluated, under the first one's tokenizer.

    Args:
        mean: Of their ``probabilities`` or ``logits``.
        models: Folders, hub ids, either with ``+ADAPTER``.
        settings: As for `entrants`; so are `folder` and `dtype`.
        folder: What paths in `settings` are relative to.
        dtype: What the models compute in.

    Raises:
        UserError: A recipe is among them.
    """
    for model in models:
        if Path(model).is_file():
            raise UserError(f"--ensemble: expected models, but {model} is a recipe: build it first")
    recipe = uniform([relocated(model, Path.cwd()) for model in models])
    made = entrant(f"{mean} of {len(models)} models", recipe, settings, folder, dtype)
    return replace(made, ensemble=mean)


def _entrant(model: str, settings: Mapping[str, Any], folder: Path, dtype: str | None) -> Entrant:
    if Path(model).suffix in (".yaml", ".yml") and Path(model).is_file():
        recipe = Recipe.from_yaml(model)
    else:
        recipe = _alone(relocated(model, Path.cwd()))
    return entrant(model, recipe, settings, folder, dtype)


def entrant(
    name: str, recipe: Recipe, settings: Mapping[str, Any], folder: Path, dtype: str | None = None
) -> Entrant:
    """Return a recipe as what is evaluated; the arguments are those of `entrants`."""
    parents = list(recipe.model_names)
    donor = recipe.donor  # whose tokenizer it takes; a config of another is that model's own
    while donor in recipe.merges:
        donor = recipe.merges[donor].donor
    base = open_model(donor)
    wanted = recipe.out_dtype or recipe.dtype
    weights = _loaded_dtype(base, donor) if wanted in (None, PARENTS) else str(wanted)
    if dtype == "float32":  # the same weights, computed with more finely
        settings = {**settings, "evaluate": {**settings["evaluate"], "dtype": dtype}}
    elif dtype is not None:
        weights = dtype
    document = {
        "base_model": donor,
        "models": parents,
        "space": {},
        "output": {"dtype": weights, "save_model": False},
        **settings,
    }
    config = StudyConfig.from_dict(document, folder, "evaluate")
    return Entrant(name, Recipe.from_dict({**recipe.to_dict(), "out_dtype": weights}), config)


def _alone(model: str) -> Recipe:
    entry = {"model": model, "parameters": {"weight": 1.0}}
    document = {"merge_method": "linear", "models": [entry], "parameters": {"normalize": False}}
    return Recipe.from_dict(document)


def _loaded_dtype(model: Checkpoint, name: str) -> str:
    """Return the dtype in which transformers loads a model that is not told one."""
    text = model.config.get("text_config") or {}
    said = [c.get(key) for c in (model.config, text) for key in ("dtype", "torch_dtype")]
    code = next((info.dtype for info in model.tensors.values() if info.dtype in FLOATS), None)
    stored = next((dtype for dtype in _DTYPES if CODES[dtype] == code), None)
    chosen = next((str(dtype) for dtype in said if dtype), stored)
    if chosen not in _DTYPES:
        raise UserError(
            f"{name}: expected weights in {', '.join(_DTYPES)}, but its config.json says "
            f"{chosen}; choose one with --dtype"
        )
    return str(chosen)
