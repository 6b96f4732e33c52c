"""Give units of work to workers, and bring back an answer for each, whatever workers do."""

from __future__ import annotations

import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evomerge.errors import UserError
from evomerge.study.failures import TRANSIENT, failure
from evomerge.study.workers import Message, Pool

ATTEMPTS = 3  # how often a unit is tried when its worker is lost or runs out of memory
LEAST_SECONDS = 120.0  # no unit is given up on earlier
START_SECONDS = 1800.0  # ... nor is a new worker's first, which loads libraries, model and tasks
PATIENCE = 10.0  # times the median of what units took so far
DEVICE_FAILURES = 2  # of one device, before it is used no more
MOST_LOSSES = 5  # workers lost in a row, with no answer in between, before the study stops


@dataclass(frozen=True)
class Unit:
    """A request, and what it is about: units of one subject prefer one worker.

    `again` marks one that was answered before, by a device that broke since.
    """

    subject: str
    request: Message
    tag: Any = None
    again: bool = False


@dataclass
class _Running:
    unit: Unit
    attempt: int
    since: float
    halvings: int


class Scheduler:
    """Keeps every worker of a pool busy; retries what a lost worker was doing.

    Results do not depend on the number of workers or on the order of completion.

    Attributes:
        pool: The workers.
        halvings: How often batches were halved, because memory ran out; holds for all that follows.
    """

    def __init__(self, pool: Pool, halvings: int = 0):
        self.pool = pool
        self.halvings = halvings
        self._device_failures: Counter[str] = Counter()
        self._durations: deque[float] = deque(maxlen=200)
        self._last: dict[int, str] = {}
        self._ready: set[int] = set()  # workers that have answered since they were started
        self._losses = 0

    def run(self, units: Sequence[Unit], done: Callable[[Unit, Message, int], None]) -> None:
        """Do all units; `done(unit, answer, worker)` is called as each is finished.

        It is called again, with ``rescored`` in the answer, for what a broken device had scored.

        Raises:
            UserError: Workers are lost again and again, so that nothing gets done.
        """
        waiting: deque[tuple[Unit, int]] = deque((unit, 1) for unit in units)
        running: dict[int, _Running] = {}
        idle = deque(worker for worker in range(self.pool.size) if self._is_trusted(worker))
        scored: dict[int, list[Unit]] = {}
        try:
            while waiting or running:
                while idle and waiting:
                    worker = idle.popleft()
                    unit, attempt = self._pick(worker, waiting)
                    running[worker] = _Running(unit, attempt, time.monotonic(), self.halvings)
                    self._last[worker] = unit.subject
                    self.pool.submit(worker, self._request(unit))
                for reply in self.pool.poll(timeout=0.5):
                    job = running.pop(reply.worker, None)
                    if reply.lost is not None:
                        self._lose(reply.worker, reply.lost)
                    if job is None:
                        continue
                    answer = reply.answer or failure(reply.kind, reply.lost or "no answer")
                    if reply.answer is not None:
                        self._note(job, reply.worker)
                    if _kind(answer) == "device":
                        waiting.extend(self._distrust(reply.worker, answer, scored, idle))
                    if self._is_trusted(reply.worker):
                        idle.append(reply.worker)
                    self._settle(job, answer, reply.worker, waiting, done)
                    if "rows" in answer:
                        scored.setdefault(reply.worker, []).append(job.unit)
                self._end_the_hung(running, idle, waiting, done)
        except BaseException:
            for worker in running:  # what they are doing is nobody's business any more
                self._restart(worker)
            raise

    def _pick(self, worker: int, waiting: deque[tuple[Unit, int]]) -> tuple[Unit, int]:
        """The next unit; one whose candidate the worker holds already, if there is one near."""
        for i, (unit, _) in enumerate(waiting):
            if unit.subject == self._last.get(worker):
                picked = waiting[i]
                del waiting[i]
                return picked
            if i >= 64:
                break
        return waiting.popleft()

    def _note(self, job: _Running, worker: int) -> None:
        """A worker is alive; how long it took tells what is usual, its first recipe aside."""
        self._losses = 0
        if worker in self._ready:
            self._durations.append(time.monotonic() - job.since)
        elif job.unit.subject:
            self._ready.add(worker)

    def _settle(
        self,
        job: _Running,
        answer: Message,
        worker: int,
        waiting: deque[tuple[Unit, int]],
        done: Callable[[Unit, Message, int], None],
    ) -> None:
        kind = _kind(answer)
        if kind in TRANSIENT and job.attempt < ATTEMPTS:
            if kind == "oom":
                self.halvings = max(self.halvings, job.halvings + 1)
            waiting.appendleft((job.unit, job.attempt + 1))
            return
        if job.halvings and kind is None:
            answer = {**answer, "halvings": job.halvings}
        if job.unit.again and kind is None:
            answer = {**answer, "rescored": True}
        if not (job.unit.again and kind is not None):  # what it was before stays
            done(job.unit, answer, worker)

    def _request(self, unit: Unit) -> Message:
        return {**unit.request, "halvings": self.halvings} if self.halvings else unit.request

    def _is_trusted(self, worker: int) -> bool:
        return self._device_failures[self.pool.device(worker)] < DEVICE_FAILURES

    def _distrust(
        self, worker: int, answer: Message, scored: dict[int, list[Unit]], idle: deque[int]
    ) -> list[tuple[Unit, int]]:
        """Replace a worker whose device failed; the second time, use that device no more.

        Returns:
            What workers on it scored in this run, to be scored again elsewhere.

        Raises:
            UserError: No other device is left.
        """
        device = self.pool.device(worker)
        self._device_failures[device] += 1
        if self._is_trusted(worker):
            self._restart(worker)  # a process that saw such an error can do nothing more
            return []
        if not any(map(self._is_trusted, range(self.pool.size))):
            said = answer["failed"]["message"]
            raise UserError(
                f"every device failed; the last one ({device}) said: {said}; look at it, then run "
                "the same command again to resume"
            )
        same = [w for w in range(self.pool.size) if self.pool.device(w) == device]
        for other in same:
            if other in idle:
                idle.remove(other)
        return [(replace(unit, again=True), 1) for w in same for unit in scored.pop(w, [])]

    def _lose(self, worker: int, reason: str) -> None:
        self._losses += 1
        if self._losses > MOST_LOSSES * self.pool.size:
            raise UserError(
                f"workers are lost as soon as they start ({reason}); the last lines of workers.log "
                "in the run folder say why"
            )
        time.sleep(min(0.1 * 2**self._losses, 5.0) if self._losses > 1 else 0.0)
        self._restart(worker)

    def _restart(self, worker: int) -> None:
        self._last.pop(worker, None)
        self._ready.discard(worker)
        self.pool.restart(worker)

    def _end_the_hung(
        self,
        running: dict[int, _Running],
        idle: deque[int],
        waiting: deque[tuple[Unit, int]],
        done: Callable[[Unit, Message, int], None],
    ) -> None:
        """Kill workers that take far longer than others did, and count their units as failed."""
        if len(self._durations) < 5:
            return
        usual = PATIENCE * statistics.median(self._durations)
        for worker, job in list(running.items()):
            limit = max(LEAST_SECONDS if worker in self._ready else START_SECONDS, usual)
            if time.monotonic() - job.since > limit:
                del running[worker]
                self._restart(worker)
                if self._is_trusted(worker):
                    idle.append(worker)
                answer = failure("timeout", f"no answer after {limit:.0f} s")
                self._settle(job, answer, worker, waiting, done)


def _kind(answer: Message) -> str | None:
    """The kind of failure that an answer is; ``None`` for none."""
    kind: str | None = answer.get("failed", {}).get("kind")
    return kind
