"""Computes a study's speed, and the time that it still takes, from the times in its journal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from evomerge.study.journal.events import Event, OpenedEvent, OutcomesEvent, ToldEvent
from evomerge.study.journal.record import Record

_RECENT = 512  # deliveries that the items per second are taken over
_SHORTEST = 1e-3  # seconds


class Pace:
    """Listens to a study's events, of this process or out of a journal.

    Speed is that of the last session: a resumed study may run on other machines.

    Attributes:
        opened: When the session began, in seconds since 1970.
        last: The time of the last event.
    """

    def __init__(self, opened: float | None = None, now: Callable[[], float] = time.time):
        self.opened = opened
        self.last: float | None = opened
        self._now = now
        self._search_began: float | None = None
        self._last_generation_at: float | None = None
        self._searched_before: int | None = None
        self._searched: int | None = None
        self._items: deque[tuple[float, int]] = deque(maxlen=_RECENT)

    def apply(self, event: Event, record: Record) -> None:
        """Take in an event that the record already has."""
        moment = event.time
        if moment is None:
            return
        self.last = moment
        if isinstance(event, OpenedEvent):
            self.opened, self._search_began, self._searched_before = moment, None, None
            self._items.clear()
            return
        fresh = len(event.trials) if isinstance(event, ToldEvent) else 0
        if self._searched is None:  # a resumed study has generations from before this listener
            self._searched = record.n_learned
        else:
            self._searched += fresh
        if record.phase == "search" and self._search_began is None:
            self._search_began, self._searched_before = moment, self._searched - fresh
        if fresh:
            self._last_generation_at = moment
        if isinstance(event, OutcomesEvent):
            self._items.append((moment, len(event.rows)))

    @property
    def elapsed(self) -> float | None:
        """Seconds since the session began."""
        return None if self.opened is None else max(0.0, self._now() - self.opened)

    @property
    def trials_per_second(self) -> float | None:
        """Searched trials per second of this session; ``None`` before the first generation."""
        fresh = (self._searched or 0) - (self._searched_before or 0)
        if self._search_began is None or self._last_generation_at is None or fresh < 1:
            return None
        return fresh / max(self._last_generation_at - self._search_began, _SHORTEST)

    @property
    def items_per_second(self) -> float | None:
        """Outcomes per second over the last deliveries."""
        if len(self._items) < 2:
            return None
        (first, _), (last, _) = self._items[0], self._items[-1]
        count = sum(items for _, items in self._items) - self._items[0][1]
        return count / max(last - first, _SHORTEST)

    def seconds_left(self, wanted: int | None) -> float | None:
        """Estimate the seconds until this many trials are searched, without race and verdict."""
        rate = self.trials_per_second
        if rate is None or wanted is None:
            return None
        return max(0, wanted - (self._searched or 0)) / rate

    def until_deadline(self, allowed: float | None) -> float | None:
        """Return the seconds that are left of a session of this length; 0 once it is over."""
        if allowed is None or self.opened is None:
            return None
        return max(0.0, self.opened + allowed - self._now())
