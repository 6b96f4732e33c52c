"""Differential evolution steps by the difference of two points that were asked before.

JADE, Zhang 2009, https://doi.org/10.1109/TEVC.2009.2014613, without its archive: steps towards one
of the best points, with step lengths and crossover rates that learn from what worked.
"""

from __future__ import annotations

import math

import numpy as np

from evomerge.optimizers.checks import share_of_range
from evomerge.optimizers.coordinates import Floats
from evomerge.optimizers.evolution.moves import cloud
from evomerge.optimizers.optimizer import Optimizer
from evomerge.recipe.space.dimension import Point

_BEST = 0.2  # p: the share of the population that counts as best
_LEARNING = 0.1  # c: how fast F and CR follow what worked


class DifferentialEvolution(Optimizer):
    """DE/current-to-pbest/1/bin over the unit cube, with JADE's adaptation.

        v_i = x_i + F_i (x_pbest - x_i) + F_i (x_r1 - x_r2)
        u_ij = v_ij with probability CR_i (for one j always), else x_ij

    A child takes its parent's place if its fitness is at least as good, so fitness of different
    generations is compared: it suits a fitness whose items stay the same. A failure replaces
    nobody; anything that works replaces a failure. A coordinate that leaves the cube is put half
    way between its parent and the bound. Choices and integers are searched by their index.

    Args:
        sigma: Standard deviation of the first population about the initial point, as a share of
            each dimension's range.
        population: Points per generation; ``None`` means ``4 + floor(3 ln d)``.
        seed: The seed used when `start` is given none.
    """

    smallest_population = 4
    compares_generations = True

    def __init__(
        self, sigma: float = 0.15, population: int | None = None, seed: int | None = None
    ) -> None:
        super().__init__(population=population, seed=seed)
        self._sigma = share_of_range("DifferentialEvolution sigma", sigma)

    def _begin(self) -> None:
        self._rng = np.random.default_rng(self._seed)
        self._steps = np.full(len(self._coordinates), self._sigma)
        self._units: Floats | None = None  # (population, d), the parents
        self._fitness = np.full(self._population, -math.inf)
        self._mean_f, self._mean_cr = 0.5, 0.5

    def _propose(self) -> list[Point]:
        if self._units is None:
            centre = self._coordinates.encode(self._initial)
            self._children = cloud(self._rng, centre, self._steps, self._population)
            points = [self._coordinates.decode(units) for units in self._children]
            points[0] = self._initial
            return points
        n, d = self._units.shape
        self._f = np.clip(_cauchy(self._rng, self._mean_f, n), 0.05, 1.0)
        self._cr = np.clip(self._rng.normal(self._mean_cr, 0.1, n), 0.0, 1.0)
        best = np.argsort(-self._fitness, kind="stable")[: max(1, round(_BEST * n))]
        x_pbest = self._coordinates.fill_inactive(
            self._units[self._rng.choice(best, n)], self._units
        )
        first, second = self._pairs(n)
        steps = x_pbest - self._units + self._units[first] - self._units[second]
        mutants = self._units + self._f[:, None] * steps  # v_i
        mutants = np.where(mutants < 0, self._units / 2, mutants)
        mutants = np.where(mutants > 1, (1 + self._units) / 2, mutants)
        crossed = self._rng.random((n, d)) < self._cr[:, None]
        crossed[np.arange(n), self._rng.integers(d, size=n)] = True
        crossed_over = np.where(crossed, mutants, self._units)  # u_i
        self._children = self._coordinates.fill_inactive(crossed_over, self._units)
        return [self._coordinates.decode(units) for units in self._children]

    def _learn(self, fitness: list[float | None]) -> None:
        of_children = np.array([-math.inf if value is None else value for value in fitness])
        if self._units is None:
            self._units, self._fitness = self._children, of_children
            return
        # an equal child replaces its parent (so plateaus are crossed); only a better one teaches
        replaced = (of_children >= self._fitness) & (of_children > -math.inf)
        better = of_children > self._fitness
        if better.any():
            f = self._f[better]
            lehmer = float((f @ f) / f.sum())  # sum F^2 / sum F: longer steps count for more
            self._mean_f += _LEARNING * (lehmer - self._mean_f)  # mu_F = (1 - c) mu_F + c mean_L(F)
            self._mean_cr += _LEARNING * (float(self._cr[better].mean()) - self._mean_cr)
        self._units = np.where(replaced[:, None], self._children, self._units)
        self._fitness = np.where(replaced, of_children, self._fitness)

    def _pairs(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw for each i two members, r1 and r2, that differ from i and from each other."""
        drawn = np.array([self._rng.permutation(n - 1)[:2] for _ in range(n)])  # (n, 2)
        others = drawn + (drawn >= np.arange(n)[:, None])
        return others[:, 0], others[:, 1]


def _cauchy(rng: np.random.Generator, middle: float, n: int) -> Floats:
    """Draw step lengths about `middle`, and again where one is not above 0, as JADE does."""
    f: Floats = middle + 0.1 * rng.standard_cauchy(n)
    while (f <= 0).any():
        again = f <= 0
        f[again] = middle + 0.1 * rng.standard_cauchy(int(again.sum()))
    return f
