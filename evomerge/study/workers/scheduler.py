"""Gives units of work to workers and returns an answer for each, whatever happens to workers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from evomerge.core.errors import UserError
from evomerge.study.workers.durations import Durations
from evomerge.study.workers.failures import TRANSIENT, failure
from evomerge.study.workers.pool import Pool
from evomerge.study.workers.queue import Unit, Waiting
from evomerge.study.workers.requests import (
    Answer,
    Describe,
    Description,
    Evaluate,
    EvaluateTogether,
    Failure,
    Gradient,
    Request,
    Scores,
)

AnswerType = TypeVar("AnswerType", bound=Answer)
Done = Callable[[Unit, Answer, int], None]

ATTEMPTS = 3  # of a unit whose worker is lost or runs out of memory
LEAST_SECONDS = 120.0  # no unit is given up earlier
START_SECONDS = 1800.0  # ... nor the first of a new worker, which loads libraries, model and tasks
PATIENCE = 10.0  # times the median of what units took so far
SLOW = 2.0  # times the median, after which an idle worker repeats a unit
SLOW_SECONDS = 0.2  # ... but not earlier
REQUESTS = 8  # per worker, into which the waiting shards are divided
SHORT_SECONDS = 0.2  # a request that takes less is short
DEVICE_FAILURES = 2  # of one device, after which it is no longer used
HALVED = (
    Describe | Evaluate | EvaluateTogether | Gradient
)  # requests that say how large batches are
MOST_LOSSES = 5  # workers lost in a row, with no answer in between, before the study stops


@dataclass
class _WorkerJob:
    """A unit under way, perhaps with several workers."""

    unit: Unit
    attempt: int
    done: Done
    workers: int = 0
    answer: Answer | None = None  # the first; later ones only confirm it
    halvings: int = 0  # of the batches that it was scored in


@dataclass
class _Running:
    task: _WorkerJob
    since: float
    halvings: int


class Scheduler:
    """Keeps every worker of a pool busy, and retries the units of lost workers.

    Results do not depend on the number of workers or on the order of completion.

    An idle worker repeats a unit that takes another worker unusually long. The first answer
    counts, and the second must agree with it.

    Attributes:
        pool: The workers.
        halvings: How often batches were halved, because memory ran out; applies to later requests.
        disagreed: Called with a unit and its two answers if a second answer differs.
    """

    def __init__(self, pool: Pool, halvings: int = 0):
        self.pool = pool
        self.halvings = halvings
        self.disagreed: Callable[[Unit, Answer, Answer], None] = lambda *_: None
        self._device_failures: Counter[str] = Counter()
        self._durations = Durations()
        self._last: dict[int, str] = {}
        self._ready: set[int] = set()  # workers that have answered since they were started
        self._losses = 0
        self._streamed = False  # candidates are: then each is one request, and read once
        self._running: dict[int, _Running] = {}  # by worker; copies may outlast a run

    @property
    def n_workers(self) -> int:
        """How many workers can be used at present; at least 1."""
        usable = (self._is_trusted(w) and self.pool.is_up(w) for w in range(self.pool.size))
        return max(1, sum(usable))

    def run(self, units: Sequence[Unit], done: Done) -> None:
        """Do all units; `done(unit, answer, worker)` is called as each is finished.

        It is called again, with ``rescored`` in the answer, for units that a broken device scored.

        Raises:
            UserError: Workers are lost again and again, or no device is left.
        """
        waiting = Waiting(units)
        scored: dict[int, list[Unit]] = {}
        try:
            while waiting or any(job.task.answer is None for job in self._running.values()):
                self._employ(waiting, done)
                answered = []
                for reply in self.pool.poll(timeout=0.5):
                    job = self._running.pop(reply.worker, None)
                    if reply.lost is not None:
                        self._lose(reply.worker, reply.lost)
                    if job is None:
                        continue
                    answer = reply.answer or failure(reply.kind, reply.lost or "no answer")
                    if reply.answer is not None:
                        self._note(job, reply.worker, answer)
                    if isinstance(answer, Failure) and answer.kind == "device":
                        for unit in self._distrust(reply.worker, answer, scored):
                            waiting.add(unit)
                    answered.append((job, answer, reply.worker))
                self._employ(waiting, done)  # before anything is journalled: that takes time
                for job, answer, worker in answered:
                    self._finish_unit(job, answer, worker, waiting)
                    if isinstance(answer, Scores) and job.task.done is done:  # no earlier copy
                        scored.setdefault(worker, []).append(job.task.unit)
                self._end_the_hung(waiting)
        except BaseException:
            for worker in list(self._running):  # nobody waits for their answers any more
                del self._running[worker]
                self._restart(worker)
            raise

    def ask(self, request: Request, answer_type: type[AnswerType]) -> AnswerType:
        """Have one worker answer one request.

        Raises:
            UserError: The answer is a failure.
        """
        answers: list[Answer] = []
        self.run([Unit("", request)], lambda _unit, answer, _worker: answers.append(answer))
        (answer,) = answers
        if isinstance(answer, Failure):
            raise UserError(answer.message)
        assert isinstance(answer, answer_type)
        return answer

    def _employ(self, waiting: Waiting, done: Done) -> None:
        """Give every idle worker its next unit."""
        if not waiting and not self._running:
            return
        built = {job.task.unit.subject for job in self._running.values()}
        for worker in range(self.pool.size):
            if worker in self._running or not self._is_trusted(worker):
                continue
            if not self.pool.is_up(worker):
                continue
            task = self._take(worker, waiting, built, done) or self._straggler()
            if task is None:
                if waiting:
                    continue
                return  # nor is there anything for the other workers
            task.workers += 1
            self._running[worker] = _Running(task, time.monotonic(), self.halvings)
            self._last[worker] = task.unit.subject
            built.add(task.unit.subject)
            self.pool.submit(worker, self._request(task.unit))

    def _take(
        self, worker: int, waiting: Waiting, built: Collection[str], done: Done
    ) -> _WorkerJob | None:
        if not waiting:
            return None
        most = self._most(len(waiting))
        taken = waiting.take(self._last.get(worker), built, self._worth_sharing, most)
        return None if taken is None else _WorkerJob(*taken, done)

    def _most(self, waiting: int) -> int:
        """Return the number of shards for one request: many at first, single ones at the end.

        A slow request may take many times the usual, so it is small beside all that wait; short
        ones are twice as large, since each also costs the driver time.
        """
        workers = self.pool.size
        if self._device_failures:
            workers = sum(map(self._is_trusted, range(self.pool.size)))
        if workers == 1 or self._streamed:
            return waiting
        usual = self._durations.slowest
        short = int(SHORT_SECONDS / usual) if usual else 1
        return max(
            1, waiting // (REQUESTS * workers), min(short, 2 * waiting // (REQUESTS * workers))
        )

    @property
    def _worth_sharing(self) -> float:
        """Return the number of shards that take as long as building their candidate again."""
        usual = self._durations.slowest
        return self._durations.usual_build / usual if usual else 1.0

    def _straggler(self) -> _WorkerJob | None:
        """Return the oldest unit that takes its only worker unusually long."""
        slow = (
            job.task
            for job in self._running.values()  # the oldest comes first
            if job.task.answer is None
            and job.task.workers == 1
            and job.task.attempt < ATTEMPTS
            and self._is_slow(job)
        )
        return next(slow, None)

    def _is_slow(self, job: _Running) -> bool:
        usual = self._durations.usual(job.task.unit)
        if usual is None or not job.task.unit.subject:
            return False
        limit = max(SLOW * usual + self._durations.usual_build, SLOW_SECONDS)
        return time.monotonic() - job.since > limit

    def _note(self, job: _Running, worker: int, answer: Answer) -> None:
        """Note that a worker is alive, and how long it took unless this was its first recipe."""
        self._losses = 0
        if isinstance(answer, Description):
            self._streamed = answer.streamed
        if worker in self._ready:
            self._durations.note(job.task.unit, answer, time.monotonic() - job.since)
        elif job.task.unit.subject:
            self._ready.add(worker)

    def _finish_unit(self, job: _Running, answer: Answer, worker: int, waiting: Waiting) -> None:
        """Accept an answer to a unit, or retry the unit; the first answer counts."""
        task, kind = job.task, answer.kind if isinstance(answer, Failure) else None
        task.workers -= 1
        if task.answer is not None:
            comparable = kind not in TRANSIENT and job.halvings == task.halvings
            if comparable and _rows(task.answer) != _rows(answer):
                self.disagreed(task.unit, task.answer, answer)
            return
        if kind in TRANSIENT:
            task.attempt += 1
            if kind == "oom":
                self.halvings = max(self.halvings, job.halvings + 1)
            if task.workers:
                return  # another worker is still trying
            if task.attempt <= ATTEMPTS:
                waiting.add(task.unit, task.attempt)
                return
        task.answer, task.halvings = answer, job.halvings
        if isinstance(answer, Scores):
            answer = replace(answer, halvings=job.halvings, rescored=task.unit.again)
        if not (task.unit.again and kind is not None):  # else the earlier answer stays
            task.done(task.unit, answer, worker)

    def _request(self, unit: Unit) -> Request:
        if self.halvings and isinstance(unit.request, HALVED):
            return replace(unit.request, halvings=self.halvings)
        return unit.request

    def _is_trusted(self, worker: int) -> bool:
        failures = self._device_failures
        return not failures or failures[self.pool.device(worker)] < DEVICE_FAILURES

    def _distrust(self, worker: int, failed: Failure, scored: dict[int, list[Unit]]) -> list[Unit]:
        """Replace a worker whose device failed; the second time, stop using that device.

        Returns:
            The units that workers on it scored in this run, to be scored again on others.

        Raises:
            UserError: No other device is left.
        """
        device = self.pool.device(worker)
        self._device_failures[device] += 1
        if self._is_trusted(worker):
            self._restart(worker)  # after such an error its process is unusable
            return []
        if not any(map(self._is_trusted, range(self.pool.size))):
            raise UserError(
                f"every device failed; the last one, {device}, reported: {failed.message}; repair "
                "it, then run the same command again to resume"
            )
        same = [w for w in range(self.pool.size) if self.pool.device(w) == device]
        return [replace(unit, again=True) for w in same for unit in scored.pop(w, [])]

    def _lose(self, worker: int, reason: str) -> None:
        self._losses += 1
        if self._losses > MOST_LOSSES * self.pool.size:
            raise UserError(
                f"workers are lost as soon as they start ({reason}); the last lines of "
                f"{self.pool.output_location} say why; the same command resumes"
            )
        time.sleep(min(0.1 * 2**self._losses, 5.0) if self._losses > 1 else 0.0)
        self._restart(worker)

    def _restart(self, worker: int) -> None:
        self._last.pop(worker, None)
        self._ready.discard(worker)
        self.pool.restart(worker)

    def _usual(self, unit: Unit) -> float | None:
        usual, slowest = self._durations.usual(unit), self._durations.slowest
        return usual if usual or not slowest else slowest * unit.size

    def _end_the_hung(self, waiting: Waiting) -> None:
        """Kill workers that take far longer than others did, and retry or fail their units."""
        oldest = next(iter(self._running.values()), None)
        earliest = min(LEAST_SECONDS, self.pool.config.workers.patience_seconds)
        if oldest is None or time.monotonic() - oldest.since <= earliest:
            return
        for worker, job in list(self._running.items()):
            usual = self._usual(job.task.unit)
            if usual is None:
                self._check_first(job)
                continue
            least = LEAST_SECONDS if worker in self._ready else START_SECONDS
            limit = max(least, PATIENCE * usual)
            if time.monotonic() - job.since > limit:
                del self._running[worker]
                self._restart(worker)
                answer = failure("timeout", f"no answer after {limit:.0f} s")
                self._finish_unit(job, answer, worker, waiting)

    def _check_first(self, job: _Running) -> None:
        """Stop a study whose first answers do not come, as if a task or template never ended."""
        workers = self.pool.config.workers
        if time.monotonic() - job.since > workers.patience_seconds:
            what = "scored yet" if job.task.unit.subject else "loaded and checked"
            raise UserError(
                f"workers: no answer after {workers.patience}, with nothing {what}: a task's "
                "template, pattern or code may never end; the last lines of "
                f"{self.pool.output_location} may say where. If it only takes long, set a longer "
                "workers.patience; the same command resumes"
            )


def _rows(answer: Answer) -> Sequence[Sequence[Any]] | None:
    return answer.rows if isinstance(answer, Scores) else None


__all__ = ["Scheduler", "Unit"]
