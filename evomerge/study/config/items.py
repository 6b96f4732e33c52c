"""Reads `evaluate.items`: how each task's documents are shared out."""

from __future__ import annotations

from dataclasses import dataclass

from evomerge.core.errors import UserError
from evomerge.study.statistics.pools import check_shares


@dataclass(frozen=True)
class ItemsConfig:
    """Shares of each task's documents, and how many of each task a generation sees.

    Attributes:
        search: Share of each task's documents that candidates are searched on.
        race: Share for the race between the best candidates.
        holdout: Share for the verdict; nobody searches on these.
        search_tasks: Tasks all of whose documents are searched on; they share none with the other
            pools. The tasks that no list names are split by the shares.
        race_tasks: Tasks for the race alone.
        holdout_tasks: Tasks for the verdict alone.
        per_generation: Documents of each task that a generation is scored on, redrawn for each.
            By default 48 over all tasks together, but at least 4 of each: more candidates on fewer
            items find more (experiments/optimizer_benchmark).
    """

    search: float = 0.5
    race: float = 0.2
    holdout: float = 0.3
    per_generation: int | None = None
    search_tasks: tuple[str, ...] = ()
    race_tasks: tuple[str, ...] = ()
    holdout_tasks: tuple[str, ...] = ()

    @property
    def pool_of(self) -> dict[str, str]:
        """The pool of each task that belongs to one alone."""
        lists = {"search": self.search_tasks, "race": self.race_tasks}
        lists["holdout"] = self.holdout_tasks
        return {task: pool for pool, tasks in lists.items() for task in tasks}

    @property
    def shares(self) -> dict[str, float]:
        """The three pools' shares."""
        return {"search": self.search, "race": self.race, "holdout": self.holdout}

    def check(self, where: str) -> None:
        """Refuse shares that do not add up, and tasks in two pools."""
        listed = [*self.search_tasks, *self.race_tasks, *self.holdout_tasks]
        twice = sorted({task for task in listed if listed.count(task) > 1})
        if twice:
            raise UserError(f"{where}: evaluate.items: task {twice[0]} is listed twice")
        try:
            check_shares(self.shares)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
