"""Scores every mixture on a grid of the simplex of weights, the models alone first.

Rame 2023, https://arxiv.org/abs/2306.04488; Croce 2023, https://arxiv.org/abs/2302.10164.
"""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import numpy as np

from evomerge.core.errors import UserError
from evomerge.optimizers.checks import MOST_POINTS, whole_number
from evomerge.optimizers.coordinates import Floats
from evomerge.optimizers.procedures.procedure import Plan, Procedure
from evomerge.recipe.space.dimension import Point

_AT_ONCE = 16  # candidates of one generation


class SimplexGrid(Procedure):
    """All weights that are multiples of 1/steps and add up to 1: C(n + steps - 1, steps) of them.

    The corners are the models themselves, so the best point is at least as good as the best of
    them, on the items searched on. With several objectives the grid is the same, and its front
    contains or beats each model (rewarded soups); it then has no one result.

    Args:
        steps: 1 / the distance of neighbours (rewarded soups: 10).
        seed: Unused; every optimizer takes one.
    """

    takes_vectors = True

    def __init__(self, steps: int = 4, seed: int | None = None) -> None:
        super().__init__(seed=seed)
        self._steps = whole_number("SimplexGrid steps", steps, 1, MOST_POINTS)

    def plan(self, n: int) -> Plan:
        """Score the corners first, then the rest of the grid."""
        count = math.comb(n + self._steps - 1, self._steps)
        if count > MOST_POINTS:
            raise UserError(
                f"SimplexGrid steps: expected a grid of at most {MOST_POINTS:,} points, but "
                f"{self._steps} steps for {n} models make {count:,}: take fewer steps"
            )
        points = compositions(n, self._steps)
        points.sort(key=lambda point: (-float(point.max()), *(-point)))
        for start in range(0, len(points), _AT_ONCE):
            batch = points[start : start + _AT_ONCE]
            values = yield batch
            best = int(np.argmax(values))
            if values[best] > self.fitness:
                self.accept(batch[best], values[best])

    @property
    def mean(self) -> Point | None:
        """The best point so far; ``None`` with several objectives."""
        return super().mean if self._objectives == 1 else None

    def _learn_vectors(self, fitness: list[list[float] | None]) -> None:
        """Go on: the plan is the same whatever comes of it."""
        self._learn([None if vector is None else math.fsum(vector) for vector in fitness])


def compositions(n: int, steps: int) -> list[Floats]:
    """List all ways of cutting `steps` into n parts of at least 0, divided by `steps`.

    >>> [point.tolist() for point in compositions(2, 2)]
    [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    """
    result = []
    for bars in combinations(range(steps + n - 1), n - 1):
        edges = [-1, *bars, steps + n - 1]
        parts = [b - a - 1 for a, b in pairwise(edges)]
        result.append(np.array(parts, dtype=np.float64) / steps)
    return result
