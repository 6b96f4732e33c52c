"""Which value holds for a tensor: a block's before the recipe's, a model's before all models'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evomerge import methods
from evomerge.checkpoint.architecture import place
from evomerge.core.errors import UserError
from evomerge.recipe.recipe import Parameters, Recipe, Setting, resolve

Level = tuple[Parameters, float]  # parameters, and the depth at which their gradients are read


@dataclass(frozen=True)
class Levels:
    """Where one tensor's values are looked up; the first level that has one counts.

    Attributes:
        method: The merge method that makes the tensor.
        shared: Levels of what holds for all models.
        own: Levels of each model, in the recipe's order; they end in those of `shared`.
    """

    method: str
    shared: Sequence[Level]
    own: Sequence[Sequence[Level]]


def levels_of(recipe: Recipe, name: str, depth: int) -> Levels:
    """The levels of one tensor of a recipe without slices, whose models have `depth` layers."""
    at = place(name)
    whole = position(at.layer, 0, depth)
    general: Level = (recipe.parameters, whole)
    block = recipe.block_of(at.layer, at.component)
    if block is None:
        own = [[(entry.parameters, whole), general] for entry in recipe.models]
        return Levels(recipe.merge_method, [general], own)
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


def settle(
    levels: Levels, name: str, sources: Sequence[tuple[str, str]], merged: Sequence[int]
) -> dict[str, Any]:
    """Every parameter of the method, as one value or as one per merged model.

    Args:
        levels: Where to look.
        name: The output tensor; filters of what holds for all models match against it.
        sources: The (model, tensor) pairs that `levels.own` belongs to; filters of what holds
            for one model match against its own tensor.
        merged: Which of the sources the method merges, the base left out.

    Raises:
        UserError: A required parameter has no value here.
    """
    parameters: dict[str, Any] = {}
    for parameter in methods.get(levels.method).parameters:
        places = (
            [(levels.own[i], sources[i][1], f" for {sources[i][0]}") for i in merged]
            if parameter.per_model
            else [(levels.shared, name, "")]
        )
        values = []
        for own, tensor, whose in places:
            value = lookup(own, parameter.name, tensor)
            if value is None:
                value = parameter.default
            if value is methods.REQUIRED:
                raise UserError(
                    f"{levels.method} needs {parameter.name}{whose} (asked for by {name})"
                )
            values.append(value)
        parameters[parameter.name] = values if parameter.per_model else values[0]
    return parameters


def filtered(recipe: Recipe) -> bool:
    """Whether any value of a recipe without slices depends on more of a tensor than its place."""
    held = [recipe.parameters, *(entry.parameters for entry in recipe.models)]
    for block in recipe.blocks:
        held += [block.parameters, *(entry.parameters for entry in block.models)]
    return any(
        isinstance(setting, list) and isinstance(next(iter(setting), None), dict)
        for parameters in held
        for setting in parameters.values()
    )


def position(layer: int | None, first: int, end: int) -> float:
    """Depth in [0, 1] of a layer in [first, end); 0 outside the stack, 1 in a stack of one."""
    if layer is None:
        return 0.0
    return (layer - first) / (end - first - 1) if end - first > 1 else 1.0


def lookup(levels: Sequence[Level], parameter: str, tensor: str) -> Setting | None:
    """The value of the first level that has one for this tensor."""
    for parameters, depth in levels:
        if parameter in parameters:
            value = resolve(parameters[parameter], tensor, depth)
            if value is not None:
                return value
    return None
