"""A prior of how far to step in each weight: further where the parents' changes are larger.

A weight moves the merged tensors that it governs along one model's change. How far, relative to
the base's tensors, is known before anything is scored:

    r_j = range_j sqrt( Σ_t c_tj² |delta_t|² / Σ_t c_tj² |base_t|² ),    c_tj = d weight_t / d x_j

First steps grow with sqrt(r_j), and their mean square over the weights is 1. It is an option, not
the default: on two zoos it was worth nothing (experiments/optimizer_benchmark).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from evomerge.recipe.recipe import Recipe
from evomerge.recipe.space.dimension import Point
from evomerge.recipe.space.holes import model_of
from evomerge.recipe.space.space import SearchSpace
from evomerge.recipe.values import Levels, levels_of, lookup

Norms = Mapping[str, Mapping[str, Sequence[float]]]  # model -> tensor -> |delta|², |base|²
_MOST = 2.5  # times the geometric mean, or by that much below it


def steps_of(space: SearchSpace, norms: Norms, depth: int) -> list[float]:
    """For each dimension its first step, relative to the optimizer's own; 1 but for weights.

    Args:
        space: The space; read at its start.
        norms: Squared norms of each parent's tensors.
        depth: How many layers the models have.
    """
    start = tuple(dimension.start for dimension in space.dimensions)
    changes = [_relative_change(space, norms, depth, start, j) for j in range(len(start))]
    known = [change for change in changes if change]
    if not known:
        return [1.0] * len(changes)
    middle = math.exp(math.fsum(map(math.log, known)) / len(known))
    roots = [
        math.sqrt(min(max(change / middle, _MOST**-2), _MOST**2)) if change else None
        for change in changes
    ]
    taken = [root for root in roots if root is not None]
    size = math.sqrt(math.fsum(root**2 for root in taken) / len(taken))
    return [1.0 if root is None else round(root / size, 3) for root in roots]


def _relative_change(
    space: SearchSpace, norms: Norms, depth: int, start: Point, j: int
) -> float | None:
    """r_j; None for what is not a weight of one model, is inactive, or changes nothing."""
    dimension = space.dimensions[j]
    hole = next(hole for hole in space.holes if dimension in hole.dimensions)
    model = model_of(space.document, hole.path)
    if dimension.kind != "float" or dimension.log or "weight" not in hole.path or model is None:
        return None
    ends = [(*start[:j], value, *start[j + 1 :]) for value in (dimension.low, dimension.high)]
    low, high = (space.fill(end) for end in ends)
    moved = whole = 0.0
    for tensor, (delta, base) in norms.get(model, {}).items():
        change = _weight(high, model, tensor, depth) - _weight(low, model, tensor, depth)
        moved += change**2 * delta
        whole += change**2 * base
    return math.sqrt(moved / whole) * (dimension.high - dimension.low) if moved else None


def _weight(recipe: Recipe, model: str, tensor: str, depth: int) -> float:
    names = [entry.model for entry in recipe.models]
    if model not in names:
        return 0.0
    levels: Levels = levels_of(recipe, tensor, depth)
    value = lookup(levels.per_model[names.index(model)], "weight", tensor)
    return float(value) if isinstance(value, int | float) else 0.0
