"""How many workers help: a generation is a barrier, and its work comes in whole shards."""

from __future__ import annotations

import math


def generation_seconds(
    candidates: int, shards: int, build: float, rest: float, workers: int
) -> float:
    """Wall time of one generation, about.

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


def useful(
    candidates: int, shards: int, build: float, rest: float, least: float = 0.5
) -> dict[int, float]:
    """Seconds of a generation by number of workers, as far as they are worth having.

    Doubled as long as at least such a share of what is paid for is of use, against one worker.

    >>> useful(candidates=15, shards=1, build=1.0, rest=12.0)
    {1: 195.0, 2: 104.0, 4: 52.0, 8: 26.0, 16: 13.0}
    """
    found: dict[int, float] = {}
    count, one = 1, generation_seconds(candidates, shards, build, rest, 1)
    while True:
        seconds = generation_seconds(candidates, shards, build, rest, count)
        if count > 1 and one / (count * seconds) < least:
            return found
        found[count] = seconds
        count *= 2
