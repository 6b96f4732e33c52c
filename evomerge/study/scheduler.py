"""Give units of work to workers, and bring back an answer for each, whatever workers do."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.errors import UserError
from evomerge.study.workers import Message, Pool

ATTEMPTS = 3  # how often a unit is tried when its worker is lost or runs out of memory
LEAST_SECONDS = 120.0  # no unit is given up on earlier
START_SECONDS = 1800.0  # ... nor is a new worker's first, which loads libraries, model and tasks
PATIENCE = 10.0  # times the median of what units took so far
MOST_LOSSES = 5  # workers lost in a row, with no answer in between, before the study stops


@dataclass(frozen=True)
class Unit:
    """A request, and what it is about: units of one subject prefer one worker."""

    subject: str
    request: Message
    tag: Any = None


@dataclass
class _Running:
    unit: Unit
    attempt: int
    since: float


class Scheduler:
    """Keeps every worker of a pool busy; retries what a lost worker was doing.

    Results do not depend on the number of workers or on the order of completion.
    """

    def __init__(self, pool: Pool):
        self.pool = pool
        self._durations: deque[float] = deque(maxlen=200)
        self._last: dict[int, str] = {}
        self._ready: set[int] = set()  # workers that have answered since they were started
        self._losses = 0

    def run(self, units: Sequence[Unit], done: Callable[[Unit, Message, int], None]) -> None:
        """Do all units; `done(unit, answer, worker)` is called as each is finished.

        Raises:
            UserError: Workers are lost again and again, so that nothing gets done.
        """
        waiting: deque[tuple[Unit, int]] = deque((unit, 1) for unit in units)
        running: dict[int, _Running] = {}
        idle = deque(range(self.pool.size))
        try:
            while waiting or running:
                while idle and waiting:
                    worker = idle.popleft()
                    unit, attempt = self._pick(worker, waiting)
                    running[worker] = _Running(unit, attempt, time.monotonic())
                    self._last[worker] = unit.subject
                    self.pool.submit(worker, unit.request)
                for reply in self.pool.poll(timeout=0.5):
                    job = running.pop(reply.worker, None)
                    if reply.lost is not None:
                        self._lose(reply.worker, reply.lost)
                    if job is None:
                        continue
                    if reply.answer is not None:
                        self._note(job, reply.worker)
                    idle.append(reply.worker)
                    self._settle(job, reply.answer, reply.lost, reply.worker, waiting, done)
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
        answer: Message | None,
        lost: str | None,
        worker: int,
        waiting: deque[tuple[Unit, int]],
        done: Callable[[Unit, Message, int], None],
    ) -> None:
        if answer is None:
            answer = {"failed": {"kind": "infrastructure", "message": lost or "no answer"}}
        kind = answer.get("failed", {}).get("kind")
        if kind in ("infrastructure", "oom", "timeout") and job.attempt < ATTEMPTS:
            waiting.appendleft((job.unit, job.attempt + 1))
            return
        done(job.unit, answer, worker)

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
                idle.append(worker)
                message = f"no answer after {limit:.0f} s"
                answer = {"failed": {"kind": "timeout", "message": message}}
                self._settle(job, answer, None, worker, waiting, done)
