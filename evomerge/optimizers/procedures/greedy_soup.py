"""A greedy soup averages models, added one by one as long as they do not hurt.

Wortsman 2022, https://arxiv.org/abs/2203.05482, Recipe 1; restricted DiWA, Rame 2022,
https://arxiv.org/abs/2205.09739, is the same procedure over the runs of one training.
"""

from __future__ import annotations

import numpy as np

from evomerge.core.errors import UserError
from evomerge.optimizers.procedures.procedure import Plan, Procedure, by_fitness, singles


class GreedySoup(Procedure):
    """n + (n - 1) candidates: every model alone, then each once more as a member.

    Models are tried in order of decreasing fitness. The result is at least as good, on the items
    searched on, as the best model alone.

    Args:
        accept: ``ge`` lets a model in that leaves the soup as good as it was (the papers);
            ``gt`` only one that makes it better (the code of model-soups).
        seed: Unused; every optimizer takes one.
    """

    def __init__(self, accept: str = "ge", seed: int | None = None) -> None:
        super().__init__(seed=seed)
        if accept not in ("ge", "gt"):
            raise UserError(f"GreedySoup accept: expected ge or gt, but got {accept!r}")
        self._ties = accept == "ge"

    def plan(self, n: int) -> Plan:
        """Add the next best model; keep it if the soup is no worse."""
        alone = yield singles(n)
        order = by_fitness(alone)
        members = np.zeros(n)
        for i in order:
            if not members.any():
                members[i] = 1
                self.accept(members.copy(), alone[i])
                continue
            larger = members.copy()
            larger[i] = 1
            (value,) = yield [larger / larger.sum()]
            if value > self.fitness or (self._ties and value == self.fitness):
                members = larger
                self.accept(members / members.sum(), value)
