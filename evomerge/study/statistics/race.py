"""Runs the race, the final selection, by the tasks' own metrics on items the search never saw.

All candidates are scored on a few items; those that are clearly worse than the leader are out; the
others go on to twice as many items, and so on to the end of the pool. The search's own ranking is
not used: its best scores are partly luck.

What is promised: with probability at least 1 - alpha the candidate that is truly best is not
thrown out on the way. It could only be so by looking significantly worse than some rival at some
look, so each of the (candidates - 1) x rungs tests is one-sided at alpha / ((candidates - 1) x
rungs) (Bonferroni; it also covers that the leader is chosen by the same data). The test is that of
the verdict (`paired`). Among those that
remain the highest mean wins, without a claim that it is better than the next: such a claim needs
the verdict's own items, since the winner's mean in the race is itself partly luck.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from evomerge.study.statistics.comparison import Clusters, labels_of
from evomerge.study.statistics.outcome import DocId, Tasks, sign, weighted
from evomerge.study.statistics.paired import chance

Item = tuple[str, DocId]
TIE = 1e-12  # means closer than this are equal: sums of the same numbers in another order


@dataclass(frozen=True)
class Rung:
    """The outcome of one look.

    Attributes:
        rung: Counted from 0.
        alive: Candidates still in, in order of preference.
        out: Candidates that this look put out.
        scores: Each compared candidate's weighted mean, higher is better (a metric of which less
            is better is negated).
        winner: Set when the race is over.
    """

    rung: int
    alive: tuple[int, ...]
    out: tuple[int, ...]
    scores: Mapping[int, float]
    winner: int | None


class Race:
    """A race in steps: score everyone `alive` on `next_items`, `observe` the values, and again.

    The same candidates, items and values always give the same race, so a resumed study runs it
    again from its journal.

    Args:
        candidates: Trial numbers, the preferred (simpler, earlier) first: they win ties.
        items: The race pool, in random order (as `pools.split` gives it).
        tasks: The study's tasks: directions and weights.
        alpha: Highest probability of throwing the truly best candidate out.
        rungs: Number of looks; each has twice the items of the one before, task by task.
        clusters: Those that items are in; ``None``: all stand alone.
    """

    def __init__(
        self,
        candidates: Sequence[int],
        items: Mapping[str, Sequence[DocId]],
        tasks: Tasks,
        alpha: float = 0.05,
        rungs: int = 3,
        clusters: Clusters | None = None,
    ) -> None:
        if not candidates or len(set(candidates)) < len(candidates):
            raise ValueError(f"a race needs distinct candidates, but got {list(candidates)}")
        if rungs < 1 or not 0 < alpha < 0.5:
            raise ValueError(f"expected rungs >= 1 and 0 < alpha < 0.5, got {rungs} and {alpha}")
        if set(items) != set(tasks) or not all(items.values()):
            raise ValueError(f"expected race items of every task {sorted(tasks)}, got {items!r}")
        self.alive = tuple(candidates)
        self.winner: int | None = candidates[0] if len(candidates) == 1 else None
        self._items = items
        self._tasks = tasks
        self._rungs = rungs
        self._clusters = clusters
        self._level = alpha / (rungs * max(1, len(candidates) - 1))
        self._rung = 0
        self._values: dict[int, dict[Item, float]] = {number: {} for number in candidates}

    def next_items(self) -> dict[str, list[DocId]] | None:
        """Return the items to score everyone alive on next; None at the end.

        A small pool can give a rung no new items; then there is nothing to score and `observe`
        is called with nothing.
        """
        if self.winner is not None:
            return None
        return {
            task: list(ids[self._seen(len(ids), self._rung - 1) : self._seen(len(ids), self._rung)])
            for task, ids in self._items.items()
        }

    def withdraw(self, candidate: int) -> None:
        """Take a candidate out that can't be scored (its worker failed for good)."""
        self.alive = tuple(number for number in self.alive if number != candidate)
        if len(self.alive) == 1:
            self.winner = self.alive[0]
        elif not self.alive:
            raise ValueError("no candidate is left in the race: none could be scored")

    def observe(self, values: Mapping[int, Mapping[Item, float]]) -> Rung:
        """Take in the metric values of `next_items` and decide who goes on.

        Args:
            values: For each candidate alive, (task, doc id) -> metric in its own direction.
                Values that it has already, and candidates that are out, do no harm.

        Raises:
            ValueError: The race is over, or a value is missing, NaN or infinite.
        """
        if self.winner is not None:
            raise ValueError("the race is over")
        for number, new_values in values.items():
            if number in self._values:
                self._values[number] |= new_values
        seen = {task: ids[: self._seen(len(ids), self._rung)] for task, ids in self._items.items()}
        scored = {number: self._by_task(number, seen) for number in self.alive}
        scores = {number: self._mean(by_task) for number, by_task in scored.items()}
        leader = _first_of_the_best(self.alive, scores)
        out = tuple(
            number
            for number in self.alive
            if number != leader
            and chance(scored[leader], scored[number], self._tasks, labels_of(seen, self._clusters))
            < self._level
        )
        self.alive = tuple(number for number in self.alive if number not in out)
        if len(self.alive) == 1 or self._rung == self._rungs - 1:
            self.winner = leader
        self._rung += 1
        return Rung(self._rung - 1, self.alive, out, scores, self.winner)

    def _seen(self, size: int, rung: int) -> int:
        """Return how many items of a task have been asked for up to `rung`: n, n/2, n/4, …"""
        return math.ceil(size / 2 ** (self._rungs - 1 - rung)) if rung >= 0 else 0

    def _by_task(self, number: int, seen: Mapping[str, Sequence[DocId]]) -> dict[str, list[float]]:
        values = self._values[number]
        for task, ids in seen.items():
            for i in ids:
                if not math.isfinite(values.get((task, i), math.nan)):
                    raise ValueError(f"candidate {number} has no finite value for {task}, item {i}")
        return {task: [values[task, i] for i in ids] for task, ids in seen.items()}

    def _mean(self, by_task: Mapping[str, Sequence[float]]) -> float:
        means = {task: sign(self._tasks[task]) * fmean(v) for task, v in by_task.items()}
        return weighted(means, self._tasks)


def _first_of_the_best(numbers: Sequence[int], scores: Mapping[int, float]) -> int:
    best = max(scores.values())
    return next(number for number in numbers if scores[number] >= best - TIE)
