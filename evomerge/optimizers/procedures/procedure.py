"""Soup procedures follow fixed plans over one weight per model, behind the ask/tell contract.

A procedure is a generator: it yields weight vectors, is sent their fitness, and continues from
there. Weights add up to 1, so it means the same in a space of normalised weights (`global_linear`)
and in one of task arithmetic.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Generator
from typing import Any

import numpy as np

from evomerge.core.errors import UserError
from evomerge.optimizers.coordinates import Floats, rounded
from evomerge.optimizers.optimizer import Optimizer
from evomerge.recipe.space.dimension import Point

Plan = Generator[list[Floats], list[float], None]  # yields weights, is sent fitness (-inf: failed)


class Procedure(Optimizer):
    """The base of all procedures; they take no start, no population and draw nothing at random.

    Every candidate is scored on the same items, so that its guarantees
    hold on them. The procedure's result so far is its `mean`, and it stops when its plan ends.

    Args:
        seed: Unused; every optimizer takes one.
    """

    any_space = False
    same_items = True
    #: The weights of the result so far, one per model, and their fitness.
    weights: Floats | None = None
    fitness: float = -math.inf

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(seed=seed)

    @property
    def mean(self) -> Point | None:
        """The result so far; ``None`` before the first fitness."""
        self._check_started("mean")
        return None if self.weights is None else self._point(self.weights)

    @property
    def stopped(self) -> str | None:
        """The reason for stopping: the plan has come to its end."""
        self._check_started("stopped")
        return None if self._next else "the procedure is complete"

    @abstractmethod
    def plan(self, n: int) -> Plan:
        """Yield weights of n models to score, generation by generation; keep `weights` current."""

    def accept(self, weights: Floats, fitness: float) -> None:
        """Make these weights the result so far."""
        self.weights, self.fitness = weights, fitness

    def _begin(self) -> None:
        name = type(self).__name__
        for dimension in self._coordinates.dimensions:
            if dimension.kind != "float" or not dimension.low <= 0 <= 1 <= dimension.high:
                raise UserError(
                    f"{name} needs a space with one weight in [0, 1] for each model, such as "
                    f"global_linear, but dimension {dimension.name} is not such a weight"
                )
        self.weights, self.fitness = None, -math.inf
        self._plan = self.plan(len(self._coordinates.dimensions))
        self._next: list[Floats] = next(self._plan)
        self._population = len(self._next)

    def _propose(self) -> list[Point]:
        return [self._point(weights) for weights in self._next]

    def _learn(self, fitness: list[float | None]) -> None:
        finite_or_failed = [-math.inf if value is None else value for value in fitness]
        try:
            self._next = self._plan.send(finite_or_failed)
        except StopIteration:
            self._next = []
        self._population = len(self._next)

    def _point(self, weights: Floats) -> Point:
        dimensions = self._coordinates.dimensions
        return tuple(rounded(d, float(w)) for d, w in zip(dimensions, weights, strict=True))

    def _choose_population(self, population: Any) -> int:
        if population is not None:
            raise UserError(
                f"{type(self).__name__} decides itself how many candidates it asks for: "
                "leave search.population out"
            )
        return 1


def singles(n: int) -> list[Floats]:
    """Return the weights of each model alone."""
    return list(np.eye(n))


def by_fitness(fitness: list[float]) -> list[int]:
    """Sort the models that could be scored, best first; equal ones stay in their order."""
    order = sorted(range(len(fitness)), key=lambda i: -fitness[i])
    return [i for i in order if fitness[i] > -math.inf]
