"""Random search draws points evenly over the whole space, after the initial one."""

from __future__ import annotations

import numpy as np

from evomerge.optimizers.optimizer import Optimizer
from evomerge.recipe.space.dimension import Point


class RandomSearch(Optimizer):
    """Draws every point independently: the baseline that a search which learns has to beat.

    Each coordinate is uniform over its range (over the logarithm of it where the dimension is
    logarithmic), each integer and each choice equally likely. The first point of all is the
    initial one.
    """

    adapts = False
    takes_vectors = True

    def _begin(self) -> None:
        self._rng = np.random.default_rng(self._seed)
        self._generation = 0

    def _propose(self) -> list[Point]:
        units = self._rng.random((self._population, len(self._coordinates)))
        points = [self._coordinates.decode(row) for row in units]
        if self._generation == 0:
            points[0] = self._initial
        self._generation += 1
        return points

    def _learn(self, fitness: list[float | None]) -> None:
        """Learn nothing."""

    def _learn_vectors(self, fitness: list[list[float] | None]) -> None:
        """Learn nothing."""
