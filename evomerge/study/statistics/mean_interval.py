"""Estimates one model's score, with an interval: the mean over items, tasks weighted.

    score = Σ_t w_t mean_i(x_ti)

As for differences (`paired`), the lower limit takes one imaginary unit more, which scores as low as
the metric can, and weights all at random; the upper limit takes one that scores as high as it can
(Gaffke 2005). For one task of right and wrong answers that is Clopper and Pearson's exact interval,
https://doi.org/10.1093/biomet/26.4.404.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from evomerge.study.statistics.outcome import Tasks, bounds, sign, weights
from evomerge.study.statistics.paired import Labels, Values
from evomerge.study.statistics.weighted_mean import Floats, quantile


@dataclass(frozen=True)
class Estimate:
    """A score with its confidence interval.

    Attributes:
        score: The mean.
        low: The interval's lower limit.
        high: Its upper limit.
        units: How many independent units it rests on: items, or clusters of them.
        guaranteed: Whether every metric has bounds, and kept them.
    """

    score: float
    low: float
    high: float
    units: int
    guaranteed: bool


def mean_interval(
    values: Values, tasks: Tasks, confidence: float = 0.95, labels: Labels | None = None
) -> Estimate:
    """Return the weighted mean over tasks, and an interval around it.

    One task's is in the direction of its metric; of several, those of which less is better count
    with a minus, as in the fitness.

    Args:
        values: Metric values per task, in the metric's own direction.
        tasks: Directions and weights. Tasks of weight 0 play no part.
        confidence: Of the two-sided interval.
        labels: Items of equal labels, in one task or several, are one cluster; ``None``: none are.

    >>> quiz = {"quiz": {"metric": "acc", "higher_is_better": True, "weight": 1.0}}
    >>> all_right = mean_interval({"quiz": [1.0] * 9}, quiz)
    >>> all_right.score, round(all_right.low, 4), all_right.high  # .025 ** (1 / 9)
    (1.0, 0.6637, 1.0)
    """
    above: list[Floats] = []  # what each item adds to the least possible score
    below: list[Floats] = []  # ... and lacks of the greatest possible
    least = greatest = 0.0
    guaranteed = True
    unit_of: dict[Hashable, int] = {}
    members: list[int] = []
    for task, w in weights(tasks).items():
        if w == 0:
            continue
        x = np.asarray(values[task], dtype=np.float64)  # (n,)
        if not len(x) or not np.isfinite(x).all():
            raise ValueError(f"task {task}: expected numbers, but got {list(x[:3])}")
        limits = bounds(tasks[task])
        seen = float(x.min()), float(x.max())
        is_bounded = limits is not None and limits[0] <= seen[0] and seen[1] <= limits[1]
        low, high = limits if limits is not None and is_bounded else seen
        guaranteed &= is_bounded
        if len(tasks) > 1 and sign(tasks[task]) < 0:
            x, low, high = -x, -high, -low
        above.append((x - low) * (w / len(x)))
        below.append((high - x) * (w / len(x)))
        least, greatest = least + w * low, greatest + w * high
        of_items = range(len(x)) if labels is None else labels[task]
        members += [
            unit_of.setdefault((task, one) if labels is None else one, len(unit_of))
            for one in of_items
        ]
    tail, count = (1 - confidence) / 2, len(unit_of)
    gained, lacking = (
        np.bincount(members, np.concatenate(parts), count).astype(np.float64) * count
        for parts in (above, below)
    )
    return Estimate(
        score=least + float(gained.mean()),
        low=least + _lower(gained, tail),
        high=greatest - _lower(lacking, tail),
        units=count,
        guaranteed=guaranteed,
    )


def _lower(amounts: Floats, tail: float) -> float:
    """Return the lower limit of the mean of amounts of at least 0."""
    values, counts = np.unique(np.append(amounts, 0.0), return_counts=True)
    return quantile(values, counts.astype(np.float64), tail)
