"""How many workers help: a generation is a barrier, and its work comes in whole batches."""

from __future__ import annotations

import math


def generation_seconds(candidates: int, batches: int, seconds: float, workers: int) -> float:
    """Wall time of one generation.

    Args:
        candidates: Asked together, the reference anchor included.
        batches: Whole batches that one candidate's items are; a worker takes one or more of them.
        seconds: Of one worker for one candidate.
        workers: How many work.

    >>> generation_seconds(candidates=15, batches=6, seconds=12.0, workers=1)
    180.0
    >>> generation_seconds(candidates=15, batches=6, seconds=12.0, workers=8)
    24.0
    """
    return math.ceil(candidates * batches / workers) * seconds / batches


def busy(candidates: int, batches: int, workers: int) -> float:
    """Share of a generation's wall time during which the workers work, in (0, 1].

    >>> busy(candidates=15, batches=1, workers=16)
    0.9375
    """
    units = candidates * batches
    return units / (workers * math.ceil(units / workers))


def most_useful(candidates: int, batches: int, least: float = 0.75) -> int:
    """The largest number of workers that are busy for at least such a share of the time.

    >>> most_useful(candidates=15, batches=1), most_useful(candidates=15, batches=6)
    (20, 120)
    """
    units = candidates * batches
    return max(n for n in range(1, 2 * units + 1) if busy(candidates, batches, n) >= least)
