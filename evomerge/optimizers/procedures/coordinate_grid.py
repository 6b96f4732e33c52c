"""Searches a grid along one coordinate after the other, as ForkMerge joins its branches.

Jiang 2023, https://arxiv.org/abs/2301.12618, Algorithm 1: the greedy search of the weights.
"""

from __future__ import annotations

import numpy as np

from evomerge.optimizers.checks import MOST_POINTS, whole_number
from evomerge.optimizers.procedures.procedure import Plan, Procedure, by_fitness, singles


class CoordinateGrid(Procedure):
    """lambda_best = 1; then each next model's lambda from {0, .2, …, 1} x the mean so far.

    The merge is sum_i lambda_i theta_i / sum_i lambda_i, a point of the simplex. n + 5 (n - 1)
    candidates, for lambda = 0 is the merge so far and is not scored again. The fitness of the
    result never falls on the items searched on.

    Args:
        steps: Number of steps into which the grid is cut.
        seed: Unused; every optimizer takes one.
    """

    def __init__(self, steps: int = 5, seed: int | None = None) -> None:
        super().__init__(seed=seed)
        self._steps = whole_number("CoordinateGrid steps", steps, 1, MOST_POINTS)

    def plan(self, n: int) -> Plan:
        """Choose the models' lambdas in order of decreasing fitness."""
        alone = yield singles(n)
        lambdas = np.zeros(n)
        for seen, i in enumerate(by_fitness(alone)):
            if seen == 0:
                lambdas[i] = 1
                self.accept(lambdas.copy(), alone[i])
                continue
            tried = []
            for step in range(1, self._steps + 1):
                larger = lambdas.copy()
                larger[i] = step / self._steps * lambdas.sum() / seen
                tried.append(larger)
            values = yield [larger / larger.sum() for larger in tried]
            best = int(np.argmax(values))
            if values[best] > self.fitness:
                lambdas = tried[best]
                self.accept(lambdas / lambdas.sum(), values[best])
