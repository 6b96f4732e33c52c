"""A particle swarm pulls every particle towards its personal best and the best of all.

Kennedy 1995, https://doi.org/10.1109/ICNN.1995.488968, with the constriction of Clerc 2002,
https://doi.org/10.1109/4235.985692; repelled by the worst as in Model Swarms, Feng 2024,
https://arxiv.org/abs/2410.11163.
"""

from __future__ import annotations

import math

import numpy as np

from evomerge.optimizers.checks import share_of_range
from evomerge.optimizers.coordinates import Floats
from evomerge.optimizers.evolution.moves import cloud
from evomerge.optimizers.optimizer import Optimizer
from evomerge.recipe.space.dimension import Point

# Clerc's constriction: chi = 2 / |2 - phi - sqrt(phi^2 - 4 phi)| with phi = 4.1, and chi phi / 2
_INERTIA, _PULL = 0.7298, 1.49618


class ParticleSwarm(Optimizer):
    """A swarm in the unit cube.

        v = w v + c r_p (p - x) + c r_g (g - x) - repel r_w (g_w - x)
        x = x + v

    with p the particle's personal best, g the best and g_w the worst point of all, and r uniform in
    [0, 1] per coordinate. A particle that meets a bound stops there. Fitness of different
    generations is compared: it suits a fitness whose items stay the same. A particle whose point
    failed continues from it and forgets it. Choices and integers are searched by their index.

    Args:
        sigma: Standard deviation of the first positions about the initial point, as a share of
            each dimension's range.
        repel: Strength with which the worst point of all pushes away; 0 is the ordinary swarm.
        population: Number of particles; ``None`` means ``4 + floor(3 ln d)``.
        seed: The seed used when `start` is given none.
    """

    smallest_population = 2
    compares_generations = True

    def __init__(
        self,
        sigma: float = 0.15,
        repel: float = 0.0,
        population: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(population=population, seed=seed)
        self._sigma = share_of_range("ParticleSwarm sigma", sigma)
        self._repel = share_of_range("ParticleSwarm repel", repel) if repel else 0.0

    def _begin(self) -> None:
        self._rng = np.random.default_rng(self._seed)
        self._steps = np.full(len(self._coordinates), self._sigma)
        centre = self._coordinates.encode(self._initial)
        self._x = cloud(self._rng, centre, self._steps, self._population)
        self._v = self._steps * self._rng.standard_normal(self._x.shape) / 2
        self._personal = self._x.copy()
        self._personal_fitness = np.full(self._population, -math.inf)
        self._best, self._best_fitness = centre, -math.inf
        self._worst: tuple[float, Floats] | None = None
        self._first = True

    def _propose(self) -> list[Point]:
        if not self._first:
            self._move()
        points = [self._coordinates.decode(units) for units in self._x]
        if self._first:
            points[0] = self._initial
        return points

    def _learn(self, fitness: list[float | None]) -> None:
        self._first = False
        for i, value in enumerate(fitness):
            if value is None:
                continue
            if value > self._personal_fitness[i]:
                self._personal[i], self._personal_fitness[i] = self._x[i], value
            if value > self._best_fitness:
                self._best, self._best_fitness = self._x[i].copy(), value
            if self._worst is None or value < self._worst[0]:
                self._worst = value, self._x[i].copy()

    def _move(self) -> None:
        x = self._x
        r_p, r_g, r_w = self._rng.random((3, *x.shape))
        p = self._coordinates.fill_inactive(self._personal, x)  # inactive coordinates do not pull
        g = self._coordinates.fill_inactive(np.tile(self._best, (len(x), 1)), x)
        self._v = _INERTIA * self._v + _PULL * r_p * (p - x) + _PULL * r_g * (g - x)
        if self._repel and self._worst is not None:
            self._v -= self._repel * r_w * (self._worst[1] - x)
        moved = x + self._v  # x = x + v; what meets a bound stops there
        self._x = self._coordinates.fill_inactive(np.clip(moved, 0.0, 1.0), x)
        self._v = np.where(moved == self._x, self._v, 0.0)
