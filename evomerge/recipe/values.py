"""Finds a tensor's value: a block's counts before the recipe's, a model's before all.

It needs neither methods nor torch, so that a report reads a recipe by the merge's own rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.checkpoint.architecture import locate
from evomerge.recipe.data import Parameters, RecipeData, Setting, Slice

Level = tuple[Parameters, float]  # parameters, and the depth at which their gradients are read


@dataclass(frozen=True)
class Levels:
    """The levels at which one tensor's values are looked up; the first that has a value counts.

    Attributes:
        method: The merge method that makes the tensor.
        shared: Levels of what holds for all models.
        per_model: Levels of each model, in the recipe's order; they end in those of `shared`.
    """

    method: str
    shared: Sequence[Level]
    per_model: Sequence[Sequence[Level]]


def levels_of(recipe: RecipeData, name: str, depth: int) -> Levels:
    """Return one tensor's levels in a recipe without slices, whose models have `depth` layers."""
    at = locate(name)
    whole = position(at.layer, 0, depth)
    general: Level = (recipe.parameters, whole)
    block = recipe.block_of(at.layer, at.component)
    if block is None:
        per_model = [[(entry.parameters, whole), general] for entry in recipe.models]
        return Levels(recipe.merge_method, [general], per_model)
    first, end = block.layers or (0, depth)
    within = position(at.layer, first, min(end, depth))
    local: Level = (block.parameters, within)
    of_block = {entry.model: entry.parameters for entry in block.models}
    return Levels(
        block.merge_method,
        [local, general],
        [
            [(of_block.get(entry.model, {}), within), local, (entry.parameters, whole), general]
            for entry in recipe.models
        ],
    )


def slice_levels_of(recipe: RecipeData, part: Slice, step: int | None) -> Levels:
    """Return the levels of one tensor of a slice, in the order of its sources.

    Args:
        recipe: The recipe.
        part: One of its slices.
        step: Index of the tensor's layer within the slice; ``None`` outside the layers.
    """
    depth = position(step, 0, part.length)
    shared: list[Level] = [(part.parameters, depth), (recipe.parameters, depth)]
    per_model = [[(source.parameters, depth), *shared] for source in part.sources]
    return Levels(recipe.merge_method, shared, per_model)


def filtered(recipe: RecipeData) -> bool:
    """Say whether a recipe without slices has filters, which look at a tensor's whole name."""
    scopes = [recipe.parameters, *(entry.parameters for entry in recipe.models)]
    for block in recipe.blocks:
        scopes += [block.parameters, *(entry.parameters for entry in block.models)]
    return any(
        isinstance(setting, list) and isinstance(next(iter(setting), None), dict)
        for parameters in scopes
        for setting in parameters.values()
    )


def position(layer: int | None, first: int, end: int) -> float:
    """Return a layer's depth in [0, 1] within [first, end): 0 outside the stack, 1 if alone."""
    if layer is None:
        return 0.0
    return (layer - first) / (end - first - 1) if end - first > 1 else 1.0


def lookup(levels: Sequence[Level], parameter: str, tensor: str) -> Setting | None:
    """Return the value of the first level that has one for this tensor."""
    for parameters, depth in levels:
        if parameter in parameters:
            value = resolve(parameters[parameter], tensor, depth)
            if value is not None:
                return value
    return None


def resolve(setting: Setting, tensor: str, position: float) -> Any:
    """Return the value of one setting for one tensor, or ``None`` if its filters all pass it by.

    Args:
        setting: A scalar, a gradient, or a list of {value, filter}.
        tensor: The tensor's name; a filter matches as a substring, ``*`` or no filter always.
        position: Depth in [0, 1] at which a gradient is read, linear between its values.

    >>> resolve([0, 1], "model.layers.1.mlp.up_proj.weight", 0.25)
    0.25
    >>> resolve([{"filter": "mlp", "value": 2.0}, {"value": 1.0}], "model.norm.weight", 0.0)
    1.0
    """
    if isinstance(setting, list):
        if setting and isinstance(setting[0], dict):
            for case in setting:
                pattern = case.get("filter")
                if pattern in (None, "*") or pattern in tensor:
                    return resolve(case["value"], tensor, position)
            return None
        scaled = position * (len(setting) - 1)
        low = min(int(scaled), len(setting) - 1)
        high = min(low + 1, len(setting) - 1)
        if isinstance(setting[low], bool | str):
            return setting[low]
        share = scaled - low
        return (1 - share) * setting[low] + share * setting[high]
    return setting


def scalars(setting: Setting) -> list[Any]:
    """Return every scalar that a setting holds."""
    if isinstance(setting, list):
        return [scalar for item in setting for scalar in scalars(item)]
    if isinstance(setting, dict):
        return scalars(setting["value"])
    return [setting]
