"""Reads `search`: which optimizer, for how long."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from evomerge.core.errors import UserError
from evomerge.core.timespan import seconds
from evomerge.study.statistics.constraints import Constraint


@dataclass(frozen=True)
class ThenConfig:
    """An optimizer that goes on where the first one ended.

    Attributes:
        optimizer: Its name.
        after: How many trials the first one has, in whole generations; the others of
            `search.trials` are this one's.
        options: Passed to it.
    """

    optimizer: str
    after: int
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SearchConfig:
    """The optimizer and its budget.

    Attributes:
        optimizer: ``adam`` (gradients), ``catcma`` (floats and choices), ``cmaes`` (floats),
            ``optuna``, ``random``, …; left out, the space and the tasks decide, and
            ``evomerge check`` says which it is and why.
        trials: How many recipes to try, in whole generations.
        seed: Of the optimizer, the item pools and the methods that drop at random.
        population: Recipes in a generation; ``None`` leaves it to the optimizer.
        deadline: How long a session may take, race and verdict included, e.g. ``8h``.
        max_cost: What the study may cost over all its sessions, race and verdict included, by
            `workers.price_per_hour`.
        random_share: Share of the trials that is drawn at random, as a control arm that the report
            shows next to the optimizer.
        objective: ``weighted``: the tasks' mean by weight; ``pareto``: every task separately.
        constraints: What must not be lost, e.g. ``mmlu >= best parent - 0.01``.
        simplicity: Price of a recipe's distance from where the search starts, as a mean share of
            the dimensions' ranges; 0 for none.
        select: Which of those that the race finds equal is recommended: ``best`` or ``simplest``,
            the one nearest to the start within one standard error of the best.
        options: Passed to the optimizer, e.g. ``{sigma: 0.1}``.
        then: An optimizer that goes on from where this one ends: ``adam`` for the weights after
            ``catcma`` has chosen the methods.
    """

    optimizer: str | None = None
    trials: int = 240
    seed: int = 0
    population: int | None = None
    deadline: str | None = None
    max_cost: float | None = None
    random_share: float = 0.05
    objective: Literal["weighted", "pareto"] = "weighted"
    constraints: tuple[str, ...] = ()
    simplicity: float = 0.0
    select: Literal["best", "simplest"] = "best"
    options: Mapping[str, Any] = field(default_factory=dict)
    then: ThenConfig | None = None

    def check(self, tasks: Sequence[str], where: str) -> None:
        """Refuse numbers out of range, a deadline that is none, and constraints on other tasks."""
        if self.trials < 1:
            raise UserError(f"{where}: search.trials: expected at least 1, got {self.trials}")
        if self.then is not None and not 0 < self.then.after < self.trials:
            raise UserError(
                f"{where}: search.then.after: expected at least 1 and fewer than search.trials "
                f"({self.trials}), so that some are left for it, but got "
                f"{self.then.after}"
            )
        if self.optimizer is None and (self.options or self.then):
            raise UserError(
                f"{where}: search.{'options' if self.options else 'then'}: expected "
                "search.optimizer beside it: which optimizer is it for?"
            )
        if self.population is not None and self.population > self.trials:
            raise UserError(
                f"{where}: search.population: expected at most search.trials ({self.trials}), "
                f"but got {self.population}; ask for more trials, or leave population out"
            )
        if not 0 <= self.seed < 2**63:
            raise UserError(f"{where}: search.seed: expected 0 to 2**63 - 1, got {self.seed}")
        if not 0 <= self.random_share <= 0.5:
            raise UserError(
                f"{where}: search.random_share: expected a share from 0 to 0.5, "
                f"but got {self.random_share}"
            )
        if not 0 <= self.simplicity < math.inf:
            raise UserError(
                f"{where}: search.simplicity: expected a number of at least 0, "
                f"but got {self.simplicity}"
            )
        seconds(self.deadline, f"{where}: search.deadline")
        if self.max_cost is not None and not 0 < self.max_cost < math.inf:
            raise UserError(
                f"{where}: search.max_cost: expected a sum above 0, but got {self.max_cost}"
            )
        for text in self.constraints:
            Constraint.parse(text, f"{where}: search.constraints", tasks)

    @cached_property
    def deadline_seconds(self) -> float | None:
        """The deadline in seconds; ``None`` without one."""
        return seconds(self.deadline, "search.deadline")

    @cached_property
    def parsed_constraints(self) -> tuple[Constraint, ...]:
        """The constraints, read."""
        return tuple(Constraint.parse(text, "search.constraints") for text in self.constraints)
