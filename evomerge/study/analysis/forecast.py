"""Forecasts how many workers help: a generation is a barrier, its work comes in whole shards."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr

DISCORDANT = 0.2  # share of items on which two good recipes typically differ
_Z = 1.96  # one-sided 2.5 %


def generation_seconds(
    candidates: int, shards: int, build: float, rest: float, workers: int
) -> float:
    """Estimate the wall time of one generation.

    Args:
        candidates: Asked together, the reference anchor included.
        shards: What one candidate's items are cut into; each goes to one worker as a whole.
        build: Seconds to build one candidate, which every worker of it has to do.
        rest: Seconds of one worker for all of a candidate's items.
        workers: How many work.

    >>> generation_seconds(candidates=15, shards=6, build=1.0, rest=12.0, workers=1)
    195.0
    >>> generation_seconds(candidates=15, shards=6, build=1.0, rest=12.0, workers=30)
    7.0
    """
    builds = math.ceil(candidates / workers)
    return build * builds + math.ceil(candidates * shards / workers) * rest / shards


def useful(candidates: int, shards: int, build: float, rest: float) -> dict[int, float]:
    """Return seconds of a generation by number of workers, as far as they are worth having.

    The number is doubled as long as at least half of the paid time is of use, against one worker.

    >>> useful(candidates=15, shards=1, build=1.0, rest=12.0)
    {1: 195.0, 2: 104.0, 4: 52.0, 8: 26.0, 16: 13.0}
    """
    seconds_by_count: dict[int, float] = {}
    count, one = 1, generation_seconds(candidates, shards, build, rest, 1)
    while True:
        seconds = generation_seconds(candidates, shards, build, rest, count)
        if count > 1 and one / (count * seconds) < 0.5:
            return seconds_by_count
        seconds_by_count[count] = seconds
        count *= 2


def gain_shown(
    units: Mapping[str, int], weights: Mapping[str, float], rivals: int = 1, share: float = 0.5
) -> float:
    """Return the true gain that a verdict on right and wrong answers shows in a share of studies.

    Every rival has to be beaten at a one-sided 2.5 %. With a share p (`DISCORDANT`) of items that
    only one of two recipes gets right, the difference of one item has the variance p, less the
    square of the gain, which is left out. Over tasks with weights w_t and n_t items each, N items
    in all, the difference to one rival is normal with a standard error e, and has to exceed
    1.96 e + 1 / N (the test is exact, hence the last item):

        e = sqrt(Σ_t w_t² p / n_t) / Σ_t w_t

    Rivals of equal score differ from the winner by amounts that are correlated by 1/2, as they
    share the winner. So with u standard normal the gain g is shown with

        E[Φ((g - 1 / N) / e √2 - 1.96 √2 + u)^rivals]

    Args:
        units: Independent units of each task's held-out items: items, or clusters of items.
        weights: The tasks' weights; those of tasks without items are ignored.
        rivals: How many score the same and lead all others.
        share: Of studies that show it.

    >>> round(gain_shown({"a": 500, "b": 500}, {"a": 1.0, "b": 1.0}), 4)
    0.0287
    """
    total = sum(weights[task] for task in units)
    error = math.sqrt(sum(weights[task] ** 2 * DISCORDANT / n for task, n in units.items())) / total
    u = np.linspace(-8.0, 8.0, 1601)
    density = np.exp(-u * u / 2) / math.sqrt(2 * math.pi) * (u[1] - u[0])

    def lacking(excess: float) -> float:  # in standard errors
        return float(density @ ndtr(math.sqrt(2) * (excess - _Z) + u) ** rivals) - share

    return float(brentq(lacking, -20.0, 20.0)) * error + 1 / sum(units.values())
