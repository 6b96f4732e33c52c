"""Lottery pools interpolate towards one model after the other, each as far as a grid search says.

Yin 2023, https://arxiv.org/abs/2208.10842 (at density 1: nothing is pruned).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evomerge.core.errors import UserError
from evomerge.optimizers.procedures.procedure import Plan, Procedure, by_fitness, singles

GRID = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


class LotteryPools(Procedure):
    """current <- (1 - a) current + a next, for the best a of a grid, if that is better.

    n + 11 (n - 1) candidates. Models are taken in order of decreasing fitness (the paper orders
    its tickets by sparsity). The fitness of the result never falls on the items searched on.

    Args:
        grid: The values of a; ``None`` means .05, .1, .2 to .9, .95.
        seed: Unused; every optimizer takes one.
    """

    def __init__(self, grid: Sequence[float] | None = None, seed: int | None = None) -> None:
        super().__init__(seed=seed)
        self._grid = tuple(GRID if grid is None else grid)
        if not self._grid or not all(0 < a < 1 for a in self._grid):
            raise UserError(f"LotteryPools grid: expected values in (0, 1), but got {grid!r}")

    def plan(self, n: int) -> Plan:
        """Go from the best model towards each of the others."""
        alone = yield singles(n)
        for i in by_fitness(alone):
            single = np.eye(n)[i]
            if self.weights is None:
                self.accept(single, alone[i])
                continue
            lines = [(1 - a) * self.weights + a * single for a in self._grid]
            values = yield lines
            best = int(np.argmax(values))
            if values[best] > self.fitness:
                self.accept(lines[best], values[best])
