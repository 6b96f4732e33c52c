"""Finds where an anchor lies in a space of task arithmetic over merges that have no holes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.recipe.data import Entry
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.space.dimension import Point, Value
from evomerge.recipe.space.holes import model_of
from evomerge.recipe.space.space import SearchSpace


def point_through(space: SearchSpace, recipe: Recipe) -> Point | None:
    """Return the point that merges as `recipe` does, but for rounding; ``None`` if there is none.

        base + λ (fit - base)

    A merge `fit` of the space with λ = 1 is there by its weight λ, task arithmetic by its own.
    """
    filled = space.fill([dimension.start for dimension in space.dimensions])
    plain = not (recipe.blocks or recipe.slices or filled.blocks or filled.slices)
    alike = (filled.base_model, filled.dtype, filled.output_dtype) == (
        recipe.base_model,
        recipe.dtype,
        recipe.output_dtype,
    )
    if filled.merge_method != "task_arithmetic" or filled.parameters or not (plain and alike):
        return None
    weights = _weights(filled, recipe)
    if weights is None:
        return None
    values: list[Value] = []
    searched = set()
    for hole in space.holes:
        model = model_of(space.document, hole.path)
        if hole.path[0] != "models" or hole.path[-1] != "weight" or model is None or hole.simplex:
            return None
        searched.add(model)
        weight = weights.get(model, 0.0)
        if not all(dimension.contains(weight) for dimension in hole.dimensions):
            return None
        values += [weight] * len(hole.dimensions)
    fixed = [entry for entry in filled.models if entry.model not in searched]
    if any(entry.parameters.get("weight") != weights.get(entry.model, 0.0) for entry in fixed):
        return None
    return tuple(values)


def _weights(filled: Recipe, recipe: Recipe) -> Mapping[str, float] | None:
    """Return the outer weight of each model that makes the anchor, those left out being 0."""
    if recipe.merge_method == "task_arithmetic" and not recipe.parameters:
        listed = {entry.model: entry.parameters.get("weight") for entry in recipe.models}
        if set(listed) <= {entry.model for entry in filled.models}:
            numbers = {model: w for model, w in listed.items() if isinstance(w, int | float)}
            return numbers if len(numbers) == len(listed) else None
    for name, inner in filled.merges.items():
        if not inner.merges and _shape(inner) == _shape(recipe):
            scales = [float(one.parameters.get("lambda", 1.0)) for one in (recipe, inner)]
            return {name: scales[0] / scales[1]} if scales[1] else None
    return None


def _shape(recipe: Any) -> Any:
    """Return what two merges have in common that differ in λ alone."""
    rest = {name: value for name, value in recipe.parameters.items() if name != "lambda"}
    models = [Entry(entry.model, entry.parameters, entry.data) for entry in recipe.models]
    return recipe.merge_method, recipe.base_model, models, rest, recipe.calibration, recipe.blocks
