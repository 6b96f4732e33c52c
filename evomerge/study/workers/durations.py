"""Durations of finished units are remembered, to judge those that are under way."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Mapping

from evomerge.study.config import StudyConfig
from evomerge.study.journal.record import Record
from evomerge.study.workers.queue import Unit
from evomerge.study.workers.requests import Answer, Evaluate, EvaluateTogether, Scores

REMEMBERED = 200  # units of each mode
FEWEST = 5  # units before anything is estimated
FINAL_RECIPES = 12  # scored on the items of race and verdict, at most
MARGIN = 1.1  # builds and the export
ROUNDS = 8  # of race and verdict, each of which ends with its last shard


class Durations:
    """Median seconds of the last units: of a shard, by mode, and of building.

    Attributes:
        slowest: Seconds of a shard in the slowest mode that is known, or ``None``.
        usual_build: Usual seconds of building; 0 while nothing is known.
    """

    def __init__(self) -> None:
        self.slowest: float | None = None
        self.usual_build = 0.0
        self._units: dict[str, deque[float]] = {}
        self._medians: dict[str, float] = {}  # of those with enough units
        self._builds: deque[float] = deque(maxlen=REMEMBERED)

    def note(self, unit: Unit, answer: Answer, seconds: float) -> None:
        """Remember a unit that was answered."""
        seconds_per_shard = self._units.setdefault(_mode(unit), deque(maxlen=REMEMBERED))
        seconds_per_shard.append(seconds / unit.size)
        if len(seconds_per_shard) >= FEWEST:
            self._medians[_mode(unit)] = statistics.median(seconds_per_shard)
            self.slowest = max(self._medians.values())
        build = answer.seconds.get("build", 0.0) if isinstance(answer, Scores) else 0.0
        if build > 0:
            self._builds.append(build)
            self.usual_build = statistics.median(self._builds)

    def usual(self, unit: Unit) -> float | None:
        """Return the usual seconds of a unit like this one, or ``None`` while too few are known."""
        median = self._medians.get(_mode(unit))
        return None if median is None else median * unit.size


def final_seconds(paid: Mapping[str, tuple[float, int]], items: int, workers: int) -> float:
    """Estimate the wall time of race and verdict, which score by the metric.

    Args:
        paid: Worker seconds and items so far by score kind; where nothing was scored by the
            metric yet, the dearest known kind stands in for it.
        items: Items of race and verdict together.
        workers: How many workers share them.

    >>> final_seconds({"smooth": (10.0, 1000), "metric": (4.0, 100)}, items=100, workers=2)
    26.4
    >>> final_seconds({"smooth": (10.0, 1000)}, items=100, workers=2)
    6.6
    """
    return round(MARGIN * FINAL_RECIPES * items * _metric_price(paid) / workers, 6)


def _metric_price(paid: Mapping[str, tuple[float, int]]) -> float:
    """Return a worker's seconds for an item by the metric, or by the dearest score known."""
    prices = {kind: seconds / count for kind, (seconds, count) in paid.items() if count}
    return prices.get("metric", max(prices.values(), default=0.0))


def out_of_time(
    config: StudyConfig, record: Record, began: float, generation: float = 0.0, workers: int = 1
) -> str | None:
    """Return why no new generation may begin: ``deadline``, ``cost``, or ``None``.

    Race and verdict score by the metric, which costs several times the smooth score: what they
    will take is kept for them, and the generation has to end before; though half of the whole is
    the search's.

    Args:
        config: The study.
        record: Its state.
        began: When this session began, on the monotonic clock.
        generation: Seconds that a generation is expected to take.
        workers: How many work.
    """
    items = sum(len(ids) for pool in ("race", "holdout") for ids in record.pools[pool].values())
    reserve = generation + final_seconds(record.paid, items, workers)
    if workers > 1 and record.study is not None:  # rounds end with idle workers
        reserve += ROUNDS * (record.study.shard_items or 0) * _metric_price(record.paid)
    deadline = config.search.deadline_seconds
    session = time.monotonic() - began
    if deadline is not None and session > deadline - min(reserve, deadline / 2):
        return "deadline"
    hourly, most = config.cost(3600), config.search.max_cost
    if hourly is not None and most is not None:
        affordable = 3600 * most / hourly
        if record.run_seconds > affordable - min(reserve, affordable / 2):
            return "cost"
    return None


def _mode(unit: Unit) -> str:
    request = unit.request
    if isinstance(request, EvaluateTogether):
        return f"{request.mode} of {len(request.recipes)}"
    return request.mode if isinstance(request, Evaluate) else type(request).__name__
