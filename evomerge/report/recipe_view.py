"""Reads a recorded recipe at every location of a model: its method and values, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.core import schema
from evomerge.recipe.data import Entry, Parameters, RecipeData, Source
from evomerge.recipe.values import Levels, levels_of, lookup, scalars, slice_levels_of

LAYER_PARTS = {
    "attention": "self_attn.q_proj.weight",
    "mlp": "mlp.up_proj.weight",
    "norm": "input_layernorm.weight",
}
OUTSIDE = {
    "embedding": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "head": "lm_head.weight",
}


@dataclass(frozen=True)
class Spot:
    """A location in a model with a typical tensor; `layer` is ``None`` outside the layers."""

    layer: int | None
    component: str
    tensor: str


def recorded(document: Mapping[str, Any]) -> RecipeData:
    """Return a recipe as a journal records it; no method is needed to read it.

    Raises:
        UserError: It is none that evomerge wrote.
    """
    recipe: RecipeData = schema.read(RecipeData, document, "recipe")
    return recipe


def spots(depth: int) -> list[Spot]:
    """List all locations: three components in each of `depth` layers, then those outside."""
    inside = [
        Spot(layer, component, f"model.layers.{layer}.{end}")
        for layer in range(depth)
        for component, end in LAYER_PARTS.items()
    ]
    return inside + [Spot(None, component, name) for component, name in OUTSIDE.items()]


def depth_of(recipe: RecipeData) -> int:
    """Count the layers that a recipe shows: by slices, blocks, or the values of a gradient."""
    if recipe.slices:
        return sum(part.length for part in recipe.slices)
    ends = [block.layers[1] for block in recipe.blocks if block.layers]
    settings = [setting for scope in _scopes(recipe) for setting in scope.values()]
    return max([*ends, *map(_knots, settings), 1])


def steps(recipe: RecipeData) -> list[tuple[str, int, float]]:
    """Return the model, the layer and the hop of each layer of a path; empty if it has none.

    A hop is how much less a layer adds than the one before it: scales of a path are products.
    """
    if not recipe.slices or recipe.merge_method != "passthrough":
        return []
    result: list[tuple[str, int, float]] = []
    before = 1.0
    for part in recipe.slices:
        source = part.sources[0]
        scale = source.parameters.get("scale", 1.0)
        factor = min(scalars(scale), key=lambda value: (value == 1.0, value))
        for layer in range(*source.layer_range):
            result.append((source.model, layer, before / factor if factor else 1.0))
            before = factor or before
    return result


def method_at(recipe: RecipeData, spot: Spot, depth: int) -> str:
    """Return the merge method that makes the tensors of a location."""
    return _levels(recipe, spot, depth)[0].method


def parameters(recipe: RecipeData) -> dict[str, bool]:
    """Name the parameters that the recipe sets, and say if models have different values."""
    per_model = {name for entry in _entries(recipe) for name in entry.parameters}
    return {name: name in per_model for scope in _scopes(recipe) for name in scope}


def is_by_tensor(recipe: RecipeData) -> bool:
    """Say whether a parameter has a filter for each of many tensors."""
    settings = [setting for scope in _scopes(recipe) for setting in scope.values()]
    return any(
        isinstance(s, list) and len(s) > len(LAYER_PARTS) + len(OUTSIDE) and isinstance(s[0], dict)
        for s in settings
    )


def models(recipe: RecipeData) -> list[str]:
    """Return the merged models, in the recipe's order."""
    return list(dict.fromkeys(entry.model for entry in _entries(recipe)))


def value(recipe: RecipeData, parameter: str, model: str | None, spot: Spot, depth: int) -> Any:
    """Return the value at a location, of a model or (``None``) of all; ``None`` if unset."""
    levels, listed = _levels(recipe, spot, depth)
    if model is None:
        return lookup(levels.shared, parameter, spot.tensor)
    if model not in listed:
        return None
    return lookup(levels.per_model[listed.index(model)], parameter, spot.tensor)


def _levels(recipe: RecipeData, spot: Spot, depth: int) -> tuple[Levels, list[str]]:
    """Return the merge's levels for a location, and the models that `per_model` belongs to."""
    if not recipe.slices:
        return levels_of(recipe, spot.tensor, depth), [entry.model for entry in recipe.models]
    part, step = recipe.slices[0 if spot.component == "embedding" else -1], None
    if spot.layer is not None:
        steps = [(part, step) for part in recipe.slices for step in range(part.length)]
        part, step = steps[min(spot.layer, len(steps) - 1)]
    return slice_levels_of(recipe, part, step), [source.model for source in part.sources]


def _entries(recipe: RecipeData) -> list[Entry | Source]:
    """Return every model's entry: the recipe's, its blocks', its slices' sources."""
    of_blocks = [entry for block in recipe.blocks for entry in block.models]
    return [*recipe.models, *of_blocks, *(s for part in recipe.slices for s in part.sources)]


def _scopes(recipe: RecipeData) -> list[Parameters]:
    """Return every mapping of parameters in a recipe."""
    owners = [recipe, *recipe.blocks, *recipe.slices, *_entries(recipe)]
    return [owner.parameters for owner in owners]


def _knots(setting: Any) -> int:
    """Return the number of values of a gradient; 1 for anything else."""
    if not isinstance(setting, list):
        return 1
    if setting and isinstance(setting[0], dict):
        return max(_knots(case["value"]) for case in setting)
    return len(scalars(setting))
