"""Sobol's sequence, scrambled: points that fill the space more evenly than random ones do.

Sobol 1967, https://doi.org/10.1016/0041-5553(67)90144-9; scrambling after Owen 1998,
https://doi.org/10.1006/jcom.1998.0487.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import qmc

from evomerge.optimizers.coordinates import Floats
from evomerge.optimizers.optimizer import Optimizer
from evomerge.recipe.space.dimension import Point

_AT_ONCE = 128  # a power of two keeps the sequence balanced


class SobolSearch(Optimizer):
    """Takes one point of a scrambled Sobol sequence after the other; learns nothing.

    Any first 2^k points hold the same share of every slice of every coordinate. The first point of
    all is the initial one.
    """

    adapts = False

    def _begin(self) -> None:
        generator = np.random.default_rng(self._seed)
        self._sequence = qmc.Sobol(len(self._coordinates), scramble=True, rng=generator)
        self._drawn: Floats = np.empty((0, len(self._coordinates)))
        self._first = True

    def _propose(self) -> list[Point]:
        while len(self._drawn) < self._population:
            self._drawn = np.concatenate([self._drawn, self._sequence.random(_AT_ONCE)])
        units, self._drawn = self._drawn[: self._population], self._drawn[self._population :]
        points = [self._coordinates.decode(row) for row in units]
        if self._first:
            points[0], self._first = self._initial, False
        return points

    def _learn(self, fitness: list[float | None]) -> None:
        """Nothing to learn."""
