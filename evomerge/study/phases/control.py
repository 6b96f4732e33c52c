"""Keeps a control arm: a few random trials among the optimizer's, on the same items.

They cost a share of the trials, and show whether the optimizer beats random search on these models.
The optimizer does not learn from them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from evomerge.optimizers import create
from evomerge.recipe.space.dimension import Dimension, Point
from evomerge.study.journal.record import Record

KIND = "random"  # of these trials in the journal
_SEED = 20_240_613  # keeps its draws apart from the optimizer's own


class ControlArm:
    """Draws the random trials of a search, so many that they keep to their share of it.

    Args:
        dimensions: The space.
        seed: The study's; the same seed and generations give the same trials.
        share: Of all the search's trials, in [0, .5].
    """

    def __init__(self, dimensions: Sequence[Dimension], seed: int, share: float) -> None:
        self._drawn = create("random", population=1)
        self._drawn.start(dimensions, seed + _SEED)
        self._draw()  # its first point is the space's own start, which is not random
        self._per_trial = share / (1 - share)
        self._others, self._given = 0, 0

    def due(self, n_others: int) -> int:
        """Count the trials that are due with the next `n_others` of the optimizer."""
        return _due(self._per_trial, self._others + n_others) - self._given

    def points(self, n_others: int, most: int) -> list[Point]:
        """Draw the points that are due besides `n_others` trials of the optimizer, up to `most`."""
        new = max(0, min(self.due(n_others), most))
        self._others += n_others
        self._given += new
        return [self._draw() for _ in range(new)]

    def _draw(self) -> Point:
        points = self._drawn.ask()
        self._drawn.tell(points, [None])
        return points[0]


def whole_generations(trials: int, population: int, share: float) -> int:
    """Count the trials of a search in whole generations: the last may be too large to begin.

    >>> whole_generations(52, 20, 0.05)  # 20 and a random one, twice
    42
    """
    per_trial = share / (1 - share)
    others = given = 0
    while not others or others + given + population <= trials:
        others += population
        given += max(0, min(_due(per_trial, others) - given, trials - others - given))
    return others + given


def _due(per_trial: float, others: int) -> int:
    return math.floor(per_trial * others + 1e-9)


def compare_arms(record: Record) -> dict[str, Any] | None:
    """Compare random trials with the optimizer's, by gains over the reference on equal items.

    Returns:
        ``trials`` of the control arm, its ``mean`` and ``best`` gain, and the same of the
        optimizer: its ``optimizer_mean`` gain, and ``optimizer_best``, the best that as many of its
        trials have on average (fair, since the best of more is better). ``None`` without such
        trials.
    """
    by_kind: dict[str, list[float]] = {}
    for standing in record.standings():
        if standing.gain is not None:
            by_kind.setdefault(record.trials[standing.trial].kind, []).append(standing.gain)
    control, others = by_kind.get(KIND, []), by_kind.get("trial", [])
    if not control or not others:
        return None
    return {
        "trials": len(control),
        "mean": fmean(control),
        "best": max(control),
        "optimizer_mean": fmean(others),
        "optimizer_best": best_of(others, len(control)),
    }


def best_of(values: Sequence[float], k: int) -> float:
    """Return the mean of the best of k drawn from `values`, over all draws without putting back.

    >>> best_of([1.0, 2.0, 3.0], 2)  # (2 + 3 + 3) / 3
    2.6666666666666665
    """
    k = min(k, len(values))
    draws = math.comb(len(values), k)
    ordered = sorted(values)  # the i-th is the best of C(i, k - 1) draws
    return math.fsum(v * math.comb(i, k - 1) / draws for i, v in enumerate(ordered))
