"""Maps dimensions to coefficients: how fast each tensor's values move with a dimension.

A coefficient is a method's parameter for one tensor, and for one model where each has its own. It
is linear in each dimension that fills it (a number, a knot of a gradient over depth, a value with a
filter), so the slope is the difference between its two ends, divided by the range:

    c_kj = d coefficient_k / d x_j

On a simplex, x_j is the share here, and not what it is the softmax of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from evomerge import methods
from evomerge.checkpoint.architecture import stack_depths, stack_of
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.space.dimension import Dimension, Point
from evomerge.recipe.space.holes import Hole
from evomerge.recipe.space.space import SearchSpace
from evomerge.recipe.values import levels_of, lookup


class Coefficient(NamedTuple):
    """Names a parameter of one tensor's merge; `model` is "" where it holds for all models."""

    parameter: str
    tensor: str
    model: str


Slopes = Mapping[Coefficient, float]
Wanted = Callable[[methods.ParameterSpec], bool]


def slopes(
    space: SearchSpace,
    point: Point,
    tensors: Sequence[str],
    wanted: Wanted = lambda parameter: parameter.smooth is True,
) -> list[Slopes]:
    """Return the slopes of all coefficients along each dimension, where they are not 0.

    Dimensions of whole numbers, of choices and of `merges` have none, and none has any in a space
    of slices.

    Args:
        space: The space, bound to its models.
        point: Where; the choices in it say which methods and models there are.
        tensors: The names of the models' tensors.
        wanted: Says whether a parameter's coefficients count.
    """
    by_dimension: list[Slopes] = [{} for _ in space.dimensions]
    for first, hole in _holes(space):
        if hole.path[0] == "merges" or hole.dimensions[:1] == ():
            continue
        places = range(first, first + len(hole.dimensions))
        moves = [list(places)] if hole.groups else [[j] for j in places]
        owner = {name: j for j, g in zip(places, hole.groups, strict=False) for name in g.tensors}
        for move in moves:
            dimensions = [space.dimensions[j] for j in move]
            if not all(map(_is_range, dimensions)):
                continue
            span = dimensions[0].high - dimensions[0].low
            for coefficient, rise in _rises(space, point, move, tensors, wanted):
                j = owner.get(coefficient.tensor, move[0])
                by_dimension[j] = {**by_dimension[j], coefficient: rise / span}
    return by_dimension


def _holes(space: SearchSpace) -> Iterator[tuple[int, Hole]]:
    """Yield every hole, and the index of its first dimension."""
    first = 0
    for hole in space.holes:
        yield first, hole
        first += len(hole.dimensions)


def _is_range(dimension: Dimension) -> bool:
    return dimension.kind == "float" and dimension.low < dimension.high


def _rises(
    space: SearchSpace, point: Point, move: Sequence[int], tensors: Sequence[str], wanted: Wanted
) -> Iterator[tuple[Coefficient, float]]:
    """Yield the coefficients that differ between the ends of dimensions, and by how much."""
    ends = []
    for end in ("low", "high"):
        values = list(point)
        for j in move:
            values[j] = getattr(space.dimensions[j], end)
        ends.append(_coefficients(space.with_shares(values), tensors, wanted))
    low, high = ends
    for coefficient, value in low.items():
        rise = high[coefficient] - value
        if rise:
            yield coefficient, rise


def _coefficients(
    recipe: Recipe, tensors: Sequence[str], wanted: Wanted
) -> dict[Coefficient, float]:
    """Return every coefficient of a recipe that counts."""
    if recipe.slices:
        return {}
    depths, values = stack_depths(tensors), {}
    for tensor in tensors:
        levels = levels_of(recipe, tensor, depths[stack_of(tensor)])
        for parameter in methods.get(levels.method).parameters:
            if parameter.kind != "float" or not wanted(parameter):
                continue
            scopes = [("", levels.shared)]
            if parameter.per_model:
                names = [entry.model for entry in recipe.models]
                scopes = list(zip(names, levels.per_model, strict=True))
            for model, scope in scopes:
                value = lookup(scope, parameter.name, tensor)
                if isinstance(value, int | float):
                    values[Coefficient(parameter.name, tensor, model)] = float(value)
    return values
