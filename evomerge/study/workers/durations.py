"""How long units of work took, by shard, and what that says of those that are under way."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

from evomerge.study.workers.queue import Unit

REMEMBERED = 200  # units of each mode
FEWEST = 5  # units before anything is said


class Durations:
    """How long a shard took, by mode; and building a candidate. Seconds, medians of the last."""

    def __init__(self) -> None:
        self._units: dict[str, deque[float]] = {}
        self._builds: deque[float] = deque(maxlen=REMEMBERED)

    def note(self, unit: Unit, answer: Mapping[str, Any], seconds: float) -> None:
        """Remember a unit that was answered."""
        kept = self._units.setdefault(_mode(unit), deque(maxlen=REMEMBERED))
        kept.append(seconds / unit.size)
        build = answer.get("seconds", {}).get("build", 0.0)
        if build > 0:
            self._builds.append(build)

    def usual(self, unit: Unit) -> float | None:
        """What a unit like this one takes, or ``None`` while too few are known."""
        known = self._units.get(_mode(unit), ())
        return statistics.median(known) * unit.size if len(known) >= FEWEST else None

    @property
    def slowest(self) -> float | None:
        """What a shard takes in the slowest mode that is known."""
        known = [statistics.median(some) for some in self._units.values() if len(some) >= FEWEST]
        return max(known, default=None)

    @property
    def usual_build(self) -> float:
        """What building takes; 0 while nothing is known."""
        return statistics.median(self._builds) if self._builds else 0.0


def _mode(unit: Unit) -> str:
    return str(unit.request.get("mode", unit.request.get("do", "")))
