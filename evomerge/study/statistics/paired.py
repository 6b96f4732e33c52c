"""Estimates the difference of two models on the same items, with an interval.

Both were scored on each item, so the items' difficulty cancels: the difference is taken item by
item, averaged within a task, and the tasks are weighted as in the fitness.

    difference = Σ_t w_t mean_i(d_ti),    d_ti = ours_ti - theirs_ti, positive where ours is better

What is drawn independently is a unit: an item, or a cluster of items that belong together (several
questions about one passage). With G units, the difference is the mean of

    y_g = G Σ_{ti in g} w_t d_ti / n_t

The lower limit takes one imaginary unit more, which loses as much as the metric allows the unit of
the most influence to lose, and weights all G + 1 at random, as a Bayesian bootstrap does: it is
the quantile of that mean (`weighted_mean`). The upper limit is the same with a unit that wins. This
is Gaffke 2005, "Three test statistics for a nonparametric one-sided hypothesis on the mean of a
nonnegative variable"; Learned-Miller & Thomas 2019, https://arxiv.org/abs/1905.06208. Known is:

- With one task of right and wrong answers it is McNemar's exact test: the lower limit lies above 0
  just if P(Bin(won + lost, 1/2) >= won) is below the tail. That never errs more often than it says.
- With other metrics that have bounds it is conjectured not to, for all distributions and any number
  of items; nobody has found an exception, nor did a search of ours, with several tasks of unequal
  gains and weights either (experiments/verdict).
- Without bounds no interval for a mean can promise anything (Bahadur & Savage 1956): what may be
  lost on an item that was not seen has no limit. The range of the scores that were seen then stands
  for the bounds, and `guaranteed` is false.

Methods with a proof for every bounded metric (betting, Waudby-Smith & Ramdas 2024) were measured:
their intervals are 1.4 times as wide, with half the power (experiments/LOG.md).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.study.statistics.outcome import Tasks, bounds, sign, weights
from evomerge.study.statistics.weighted_mean import Floats, below, quantile

Values = Mapping[str, Sequence[float]]  # for each task, one metric value per item
Labels = Mapping[str, Sequence[Hashable]]  # ... and one label: equal ones are one cluster


@dataclass(frozen=True)
class Difference:
    """Ours minus theirs, positive where ours is better, with its confidence interval.

    Attributes:
        difference: The weighted mean over items.
        low: The interval's lower limit.
        high: Its upper limit.
        units: How many independent units it rests on: items, or clusters of them.
        guaranteed: Whether every metric has bounds and kept them; ``None`` in an earlier version's.
    """

    difference: float
    low: float
    high: float
    units: int = 0
    guaranteed: bool | None = None


def paired_difference(
    ours: Values,
    theirs: Values,
    tasks: Tasks,
    confidence: float = 0.95,
    labels: Labels | None = None,
) -> Difference:
    """Return the weighted mean difference over paired items, and an interval around it.

    Args:
        ours: Metric values per task, in the metric's own direction.
        theirs: The other model's, for the same items in the same order.
        tasks: The study's tasks: directions and weights. Tasks of weight 0 play no part.
        confidence: Of the two-sided interval.
        labels: Items of equal labels, in one task or several, are one cluster; ``None``: none are.

    Raises:
        ValueError: Values are not paired, or one is NaN or infinite.

    >>> quiz = {"quiz": {"metric": "acc", "higher_is_better": True, "weight": 1.0}}
    >>> same = paired_difference({"quiz": [1, 0, 1]}, {"quiz": [1, 0, 1]}, quiz)
    >>> same.difference, same.low < 0 < same.high
    (0.0, True)
    """
    units = _units(ours, theirs, tasks, labels)
    tail = (1 - confidence) / 2
    low = quantile(*units.beside(-units.worst), tail)
    high = -quantile(*_mirrored(units).beside(-units.worst), tail)
    count = len(units.values)
    return Difference(float(units.values.mean()), low, high, count, units.guaranteed)


def chance(ours: Values, theirs: Values, tasks: Tasks, labels: Labels | None = None) -> float:
    """Return the one-sided p-value of ours being no better than theirs.

    It is below (1 - confidence) / 2 just where the interval of `paired_difference` lies above 0.
    """
    units = _units(ours, theirs, tasks, labels)
    return below(*units.beside(-units.worst), 0.0)


@dataclass(frozen=True)
class _Units:
    """Contributions of independent units, whose mean is the difference, and the worst possible."""

    values: Floats  # (G,)
    worst: float
    guaranteed: bool

    def beside(self, imaginary: float) -> tuple[Floats, Floats]:
        """Return distinct values and their counts, with an imaginary unit added."""
        values, counts = np.unique(np.append(self.values, imaginary), return_counts=True)
        return values, counts.astype(np.float64)


def _mirrored(units: _Units) -> _Units:
    return _Units(-units.values, units.worst, units.guaranteed)


def _units(ours: Values, theirs: Values, tasks: Tasks, labels: Labels | None) -> _Units:
    gains, largest, guaranteed = [], [], True
    unit_of: dict[Hashable, int] = {}
    members: list[int] = []
    for task, w in weights(tasks).items():
        if w == 0:
            continue
        a, b = (np.asarray(values[task], dtype=np.float64) for values in (ours, theirs))  # (n,)
        n = len(a)
        if not n == len(b) > 0:
            raise ValueError(f"task {task}: expected paired items, but got {n} and {len(b)}")
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise ValueError(f"task {task}: a metric value is NaN or infinite")
        width, is_bounded = _range(np.concatenate([a, b]), bounds(tasks[task]))
        guaranteed &= is_bounded
        gains.append(sign(tasks[task]) * (a - b) * (w / n))
        largest.append(np.full(n, width * (w / n)))
        if labels is not None:
            members += [unit_of.setdefault(label, len(unit_of)) for label in labels[task]]
    gain, most = np.concatenate(gains), np.concatenate(largest)
    if labels is not None:
        gain, most = (
            np.bincount(members, each, len(unit_of)).astype(np.float64) for each in (gain, most)
        )
    return _Units(gain * len(gain), float(most.max()) * len(gain), guaranteed)


def _range(values: Floats, limits: tuple[float, float] | None) -> tuple[float, bool]:
    """Return the largest difference of two scores, and whether the metric's bounds say so."""
    low, high = float(values.min()), float(values.max())
    if limits is not None and limits[0] <= low and high <= limits[1]:
        return limits[1] - limits[0], True
    return next(size for size in (high - low, abs(high), 1.0) if size > 0), False
