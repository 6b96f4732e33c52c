"""Estimates the difference of two models on the same items, with an interval.

Both were scored on each item, so the items' difficulty cancels: the difference is taken item by
item, averaged within a task, and the tasks are weighted as in the fitness.

    difference = Σ_t w_t mean_i(d_ti),    d_ti = ours_ti - theirs_ti, positive where ours is better

The interval adds one imaginary item to each task, half of it won and half lost by the largest
difference R_t seen there. This is the idea of Bonett & Price 2012,
https://doi.org/10.3102/1076998611411915 (who add two items to paired 0/1 scores), carried over to
several tasks and to other scores:

    c_t = Σ_i d_ti / (n_t + 1)                                  centre
    s_t² = (Σ_i d_ti² + R_t²) / (n_t + 1) - c_t²                variance of one item
    v_t = w_t² s_t² / n_t                                       variance of w_t c_t
    Σ_t w_t c_t ± t_df sqrt(Σ_t v_t),   df = (Σ_t v_t)² / Σ_t (v_t² / n_t)          (Welch)

Without it, items on which two models never differ would give an interval of width zero, and a few
items that all go one way would prove anything. A bootstrap over items has the same two faults.

Measured on 0/1 scores, nominal 95 %, 20,000 samples each, equal weights. In brackets: how often
the lower bound lies above the truth, the one error that claims too much (nominal 2.5 %).

    tasks x items   won, lost   this interval    no imaginary item   two (as published)
    1 x 10          10 %, 10 %   99.8 (0.1)       98.8 (0.6)          100.0 (0.0)
    1 x 20          25 %, 25 %   95.9 (2.0)       95.2 (2.3)          96.6 (1.7)
    1 x 20           5 %,  0 %  100.0 (0.0)       64.0 (0.0)          100.0 (0.0)
    1 x 50           5 %,  0 %   92.3 (0.1)       92.3 (0.3)          99.9 (0.1)
    3 x 20          15 %,  5 %   97.1 (0.8)       94.9 (1.8)          98.3 (0.3)
    3 x 150         25 %, 25 %   95.2 (2.4)       94.8 (2.6)          95.3 (2.3)
    8 x 20          30 %,  0 %   94.9 (0.3)       94.8 (1.9)          93.1 (0.0)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from evomerge.study.statistics.outcome import Tasks, sign, weights

Values = Mapping[str, Sequence[float]]  # for each task, one metric value per item
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """Ours minus theirs, positive where ours is better, with its confidence interval."""

    difference: float
    low: float
    high: float


def paired_difference(
    ours: Values, theirs: Values, tasks: Tasks, confidence: float = 0.95
) -> Difference:
    """Return the weighted mean difference over paired items, and an interval around it.

    Args:
        ours: Metric values per task, in the metric's own direction.
        theirs: The other model's, for the same items in the same order.
        tasks: The study's tasks: directions and weights. Tasks of weight 0 play no part.
        confidence: Of the two-sided interval.

    >>> quiz = {"quiz": {"metric": "acc", "higher_is_better": True, "weight": 1.0}}
    >>> same = paired_difference({"quiz": [1, 0, 1]}, {"quiz": [1, 0, 1]}, quiz)
    >>> same.difference, same.low < 0 < same.high
    (0.0, True)
    """
    estimate, centre, variance, spread = 0.0, 0.0, 0.0, 0.0
    for task, w in weights(tasks).items():
        if w == 0:
            continue
        a, b = (np.asarray(values[task], dtype=np.float64) for values in (ours, theirs))  # (n,)
        if not len(a) == len(b) > 0:
            raise ValueError(f"task {task}: expected paired items, but got {len(a)} and {len(b)}")
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise ValueError(f"task {task}: a metric value is NaN or infinite")
        d = sign(tasks[task]) * (a - b)  # (n,)
        n = len(d)
        c = float(d.sum()) / (n + 1)
        s2 = (float(d @ d) + _scale(d, a, b) ** 2) / (n + 1) - c * c
        v = w * w * s2 / n
        estimate += w * float(d.mean())
        centre += w * c
        variance += v
        spread += v * v / n
    t = float(stdtrit(variance**2 / spread, (1 + confidence) / 2))  # Student's t quantile
    half = t * math.sqrt(variance)
    return Difference(estimate, centre - half, centre + half)


def _scale(d: Floats, a: Floats, b: Floats) -> float:
    """Return R_t: the largest difference, or without one what a difference could look like."""
    both = np.concatenate([a, b])
    sizes = (np.abs(d).max(), np.ptp(both), np.abs(both).max(), 1.0)
    return float(next(size for size in sizes if size > 0))
