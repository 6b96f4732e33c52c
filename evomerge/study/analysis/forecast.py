"""Forecasts how many workers help: a generation is a barrier, its work comes in whole shards."""

from __future__ import annotations

import math
from collections.abc import Mapping

DISCORDANT = 0.2  # share of items on which two good recipes typically differ
_Z = 2.24  # two-sided 97.5 %: two paired comparisons, which hold at 95 % together


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


def resolvable_gain(items: Mapping[str, int], weights: Mapping[str, float]) -> float:
    """Return the smallest gain whose paired interval would exclude 0, for right and wrong answers.

    With a share p (`DISCORDANT`) of items that only one of two recipes gets right, the difference
    of one item has the variance p, less the square of the gain, which is left out. Over tasks with
    weights w_t and n_t items each:

        gain = z sqrt(Σ_t w_t² p / n_t) / Σ_t w_t,    z = 2.24

    It is the edge of what can be shown: a true gain of that size is shown in half of all studies.

    Args:
        items: Held-out items of each task.
        weights: The tasks' weights; those of tasks without items are ignored.

    >>> round(resolvable_gain({"a": 500, "b": 500}, {"a": 1.0, "b": 1.0}), 4)
    0.0317
    """
    total = sum(weights[task] for task in items)
    spread = sum(weights[task] ** 2 * DISCORDANT / n for task, n in items.items())
    return _Z * math.sqrt(spread) / total
