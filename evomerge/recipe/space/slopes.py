"""Maps dimensions to the weights of tensors: how fast each tensor's weight moves with a dimension.

A weight of one model is linear in each of its dimensions (a number, or a knot of a gradient over
depth), so the slope is the difference between its two ends, divided by the range:

    c_tj = d weight_t / d x_j
"""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.recipe.data import RecipeData
from evomerge.recipe.space.dimension import Point
from evomerge.recipe.space.holes import model_of
from evomerge.recipe.space.space import SearchSpace
from evomerge.recipe.values import levels_of, lookup


def weight_slopes(
    space: SearchSpace, point: Point, j: int, tensors: Sequence[str], depth: int
) -> dict[str, float]:
    """Return the slope of each tensor's weight along dimension j, where it is not 0.

    Args:
        space: The space, bound to its models.
        point: The other dimensions' values.
        j: The dimension's index; one that is no weight of one model has no slopes.
        tensors: The names of the model's tensors.
        depth: How many layers the models have.
    """
    dimension = space.dimensions[j]
    hole = next(hole for hole in space.holes if dimension in hole.dimensions)
    model = model_of(space.document, hole.path)
    if dimension.kind != "float" or dimension.log or "weight" not in hole.path or model is None:
        return {}
    ends = [(*point[:j], value, *point[j + 1 :]) for value in (dimension.low, dimension.high)]
    low, high = (space.fill(end) for end in ends)
    span = dimension.high - dimension.low
    slopes = {
        tensor: (_weight(high, model, tensor, depth) - _weight(low, model, tensor, depth)) / span
        for tensor in tensors
    }
    return {tensor: slope for tensor, slope in slopes.items() if slope}


def _weight(recipe: RecipeData, model: str, tensor: str, depth: int) -> float:
    names = [entry.model for entry in recipe.models]
    if model not in names:
        return 0.0
    levels = levels_of(recipe, tensor, depth)
    value = lookup(levels.per_model[names.index(model)], "weight", tensor)
    return float(value) if isinstance(value, int | float) else 0.0
