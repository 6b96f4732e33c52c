"""LoraHub searches weights from zero, without gradients, with a price on their size.

Huang 2024, https://arxiv.org/abs/2307.13269, by CMA-ES instead of Nevergrad's portfolio.
"""

from __future__ import annotations

import math

import numpy as np

from evomerge.core.errors import UserError
from evomerge.optimizers.checks import share_of_range
from evomerge.optimizers.evolution.cmaes import CmaEs
from evomerge.optimizers.optimizer import Optimizer
from evomerge.recipe.space.dimension import Point


class LoraHub(Optimizer):
    """Maximises fitness - l1 * mean_i |w_i|, starting from w = 0.

    LoraHub minimises the loss on few-shot examples plus the same price; with `fitness: smooth` the
    fitness is a likelihood of the right answers. Its space is one weight per model in [-1.5, 1.5].

    Args:
        l1: The price of a mean absolute weight of 1 (the paper: .05).
        sigma: First standard deviation, as a share of each dimension's range.
        population: Points per generation; ``None`` means ``4 + floor(3 ln d)``.
        seed: The seed used when `start` is given none.
    """

    any_space = False
    same_items = True
    smallest_population = 4

    def __init__(
        self,
        l1: float = 0.05,
        sigma: float = 0.15,
        population: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(population=population, seed=seed)
        if isinstance(l1, bool) or not isinstance(l1, int | float) or not 0 <= l1 < math.inf:
            raise UserError(f"LoraHub l1: expected a number of at least 0, but got {l1!r}")
        self._l1 = float(l1)
        self._inner = CmaEs(sigma=share_of_range("LoraHub sigma", sigma), restarts=0)

    @property
    def mean(self) -> Point | None:
        """The centre of the distribution."""
        self._check_started("mean")
        return self._inner.mean

    @property
    def stopped(self) -> str | None:
        """The reason for stopping: the distribution has converged."""
        self._check_started("stopped")
        return self._inner.stopped

    def _begin(self) -> None:
        dimensions = self._coordinates.dimensions
        for dimension in dimensions:
            if dimension.kind != "float" or not dimension.contains(0.0):
                raise UserError(
                    f"LoraHub starts with every weight at 0, but dimension {dimension.name} does "
                    "not contain 0: search weights only, in a range such as -1.5 to 1.5"
                )
        self._inner.start(dimensions, self._seed, (0.0,) * len(dimensions), self._population)

    def _propose(self) -> list[Point]:
        self._points = self._inner.ask()
        return self._points

    def _learn(self, fitness: list[float | None]) -> None:
        prices = [self._l1 * float(np.abs(np.array(p, float)).mean()) for p in self._points]
        self._inner.tell(
            self._points,
            [None if f is None else f - price for f, price in zip(fitness, prices, strict=True)],
        )
