"""Units wait here by subject, until a worker takes the one that suits it best."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evomerge.study.workers.requests import Evaluate, Request


@dataclass(frozen=True)
class Unit:
    """A request and its subject, e.g. a recipe; units of one subject prefer one worker.

    An evaluation's request has one shard of items, or several. Each shard is scored in batches of
    its own, so results do not depend on the number of shards in a request.

    `again`: re-run, because the device that answered it was later found faulty.
    """

    subject: str
    request: Request
    tag: Any = None
    again: bool = False

    @property
    def size(self) -> int:
        """The number of its shards; a request of another kind counts as one."""
        return len(self.request.shards) if isinstance(self.request, Evaluate) else 1

    def joined(self, others: Sequence[Unit]) -> Unit:
        """Return one unit with the shards of all."""
        if not others:
            return self
        assert isinstance(self.request, Evaluate)
        shards = list(self.request.shards)
        for unit in others:
            assert isinstance(unit.request, Evaluate)
            shards += unit.request.shards
        return replace(self, request=replace(self.request, shards=shards))

    def joins(self, other: Unit) -> bool:
        """Return whether both could be one request."""
        alike = (self.subject, self.tag, self.again) == (other.subject, other.tag, other.again)
        return alike and isinstance(self.request, Evaluate) and isinstance(other.request, Evaluate)


Attempt = tuple[Unit, int]  # counted from 1


class Waiting:
    """A queue for each subject; subjects are in the order of arrival."""

    def __init__(self, units: Iterable[Unit] = ()) -> None:
        self._queues: dict[str, deque[Attempt]] = {}
        self._length = 0
        for unit in units:
            self.add(unit)

    def __len__(self) -> int:
        return self._length

    def add(self, unit: Unit, attempt: int = 1) -> None:
        """Put a unit behind the others of its subject, or in front if it was tried before."""
        queue = self._queues.setdefault(unit.subject, deque())
        (queue.appendleft if attempt > 1 else queue.append)((unit, attempt))
        self._length += 1

    def take(
        self, resident: str | None, others: Collection[str], least: float = 1, most: int = 1
    ) -> Attempt | None:
        """Take the unit that a worker should do next, or ``None``.

        First one of the subject that the worker has built; then of a subject that no other worker
        has; then of the subject with the most units, so that the last candidates are shared out.

        Args:
            resident: The subject that the worker has built.
            others: The subjects that other workers have built.
            least: Fewest waiting units for which another worker's subject is shared; that worker
                finishes fewer sooner than the candidate is built here.
            most: The largest number of shards in one request.
        """
        if resident in self._queues:
            return self._pop(resident, most)
        for subject in self._queues:  # at most one step more than there are workers
            if subject not in others:
                return self._pop(subject, most)
        longest = max(self._queues, key=lambda s: len(self._queues[s]), default=None)
        if longest is None or len(self._queues[longest]) < least:
            return None
        return self._pop(longest, most)

    def _pop(self, subject: str, most: int) -> Attempt:
        queue = self._queues[subject]
        unit, attempt = queue.popleft()
        others: list[Unit] = []
        size = unit.size
        while queue and attempt == 1 and size < most and unit.joins(queue[0][0]):
            others.append(queue.popleft()[0])
            size += others[-1].size
        self._length -= 1 + len(others)
        if not queue:
            del self._queues[subject]
        return unit.joined(others), attempt
