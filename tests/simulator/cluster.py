"""A cluster in virtual time: workers die, hang, slow down, lie, run out of memory and come back.

Everything follows from one seed. The scheduler, ledger, journal and study are the real ones; the
workers' scores are the stub worker's, which follow from a recipe's numbers.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from evomerge.core import faults
from evomerge.core.errors import UserError
from evomerge.study import ledger as ledger_module
from evomerge.study import study as study_module
from evomerge.study.config import StudyConfig
from evomerge.study.journal import journal as journal_module
from evomerge.study.phases import search
from evomerge.study.statistics import paired, weighted_mean
from evomerge.study.study import JOURNAL, Study
from evomerge.study.workers import durations, scheduler
from evomerge.study.workers.answers.codec import read_answer, write_request
from evomerge.study.workers.pool import Pool, Reply
from evomerge.study.workers.requests import Describe, Failure, Request
from tests.study import stub_worker

SETTINGS = {**stub_worker.DEFAULTS, "documents": 12}
SESSIONS = 40  # most times that the command is run again
POLLS = 200_000  # of one session: a study that is still waiting then waits for ever
# What may become of a request, and how often where faults are at their worst.
FATES = {"dies": 0.05, "killed": 0.02, "hangs": 0.01, "slow": 0.05, "oom": 0.01, "device": 0.02}


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1.7e9 + self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class KilledError(BaseException):
    """The driver is gone, as after SIGKILL: nothing catches it."""


class Weather:
    """Draws what goes wrong in one session.

    Args:
        seed: Of everything.
        session: How often the command was run before; later ones are calmer, so that all end.
        lies: Whether some answers are wrong.
        elastic: Whether nodes join and leave: the study asks for all workers.
    """

    def __init__(self, seed: int, session: int, lies: bool = False, elastic: bool = False):
        self._draw = random.Random(f"{seed} {session}")
        self.worst = self._draw.choice([0.0, 0.3, 1.0, 3.0]) * 0.8**session
        self.workers = self._draw.choice([1, 2, 3, 5, 8, 16])
        self.per_device = self._draw.choice([1, 2])
        self.lies = lies
        nodes = random.Random(f"{seed} {session} nodes")
        times = sorted(nodes.uniform(0.0, 400.0) for _ in range(nodes.randint(1, 12) * elastic))
        self.nodes = [(time, nodes.random() < 0.5) for time in times]  # whether one leaves
        self.kill_at = self._draw.expovariate(self.worst / 100) if self.worst else math.inf
        self.disk: str | None = None
        if self._draw.random() < 0.3 * self.worst:
            point = self._draw.choice(
                ["journal.write", "journal.sync", "file.write", "file.rename"]
            )
            action = self._draw.choice(["enospc", "eio"])
            self.disk = f"{point}:{self._draw.randint(1, 80)}:{action}"

    def fate(self) -> str:
        drawn = self._draw.random()
        for fate, chance in FATES.items():
            drawn -= chance * self.worst
            if drawn < 0:
                return fate
        return "lies" if self.lies and self._draw.random() < 0.02 else "answers"

    def seconds(self) -> float:
        """How long a request takes: log-normal."""
        return self._draw.lognormvariate(0.0, 0.8)

    def starting(self) -> float:
        """How long a worker takes to start; now and then its node is away for long."""
        away = self._draw.random() < 0.05 * self.worst
        return self._draw.uniform(100.0, 500.0) if away else self._draw.uniform(1.0, 20.0)

    def dies_at_start(self) -> bool:
        return self._draw.random() < 0.02 * self.worst

    def torn(self) -> bytes:
        """What a write that the kill cut short left behind."""
        return (
            b"" if self._draw.random() < 0.5 else b"half of an event"[: self._draw.randint(1, 16)]
        )


class SimulatedPool(Pool):
    """Workers of a cluster in some weather.

    Attributes:
        faults_seen: How often each fate struck, nodes joined, and nodes left with their workers.
    """

    def __init__(self, config: StudyConfig, weather: Weather, clock: Clock):
        super().__init__(config)
        self._weather, self._clock, self._opened = weather, clock, clock.now
        if config.workers.count == "all":
            self.size = weather.workers
        self._stub = Stub(config.to_dict(), SETTINGS)
        self._busy: dict[int, int] = {}  # worker -> number of its request
        self._due: list[tuple[float, int, int, Reply | None]] = []  # time, order, request, reply
        self._up_from = dict.fromkeys(range(self.size), 0.0)
        self._order = self._polls = 0
        self.faults_seen: Counter[str] = Counter()

    def device(self, worker: int) -> str:
        return f"device {worker // self._weather.per_device}"

    def is_up(self, worker: int) -> bool:
        return self._clock.now >= self._up_from[worker]

    def submit(self, worker: int, request: Request) -> None:
        assert worker not in self._busy, "a worker serves one request at a time"
        assert self.is_up(worker), "a worker that has not started gets no request"
        self._order += 1
        self._busy[worker] = self._order
        fate = self._weather.fate()
        self.faults_seen[fate] += 1
        seconds = self._weather.seconds()
        reply: Reply | None
        if fate == "dies":
            reply, seconds = Reply(worker, None, "its node is gone"), 0.5 * seconds
        elif fate == "killed":
            reply = Reply(worker, None, "the system ended it", "oom")
        elif fate == "hangs":
            reply = None
        elif fate in ("oom", "device") and not isinstance(request, Describe):
            reply = Reply(worker, Failure(fate, f"{fate} in the simulator"))
        else:
            answer = self._stub.handle(dict(write_request(request)))
            if fate == "lies" and "rows" in answer:
                rows = [list(row) for row in answer["rows"]]
                rows[0][3] = (rows[0][3] or 0.0) + 0.25
                answer = {**answer, "rows": rows}
            seconds *= 30 if fate == "slow" else 1
            spent = {"build": 0.0, "forward": seconds, "total": seconds}
            reply = Reply(worker, read_answer({**answer, "seconds": spent}))
        heapq.heappush(self._due, (self._clock.now + seconds, self._order, worker, reply))

    def poll(self, timeout: float) -> list[Reply]:
        self._polls += 1
        assert self._polls < POLLS, "the study waits for ever"
        until = min(self._clock.now + timeout, self._due[0][0] if self._due else math.inf)
        self._clock.now = max(self._clock.now, until)
        if self._clock.now >= self._weather.kill_at:
            raise KilledError
        replies = []
        while self._due and self._due[0][0] <= self._clock.now:
            _, number, worker, reply = heapq.heappop(self._due)
            if self._busy.get(worker) != number or reply is None:  # ended since, or it hangs
                continue
            del self._busy[worker]
            replies.append(reply)
        replies += self._nodes()
        for worker, since in self._up_from.items():
            idle = worker not in self._busy and self._clock.now > since > 0
            if idle and self._weather.dies_at_start():
                self._up_from[worker] = 0.0
                replies.append(Reply(worker, None, "it died while it was idle"))
        return replies

    def _nodes(self) -> list[Reply]:
        """Nodes whose time has come join with their workers, or leave and take theirs along."""
        replies = []
        while self._weather.nodes and self._weather.nodes[0][0] <= self._clock.now - self._opened:
            leaves = self._weather.nodes.pop(0)[1]
            self.faults_seen["node left" if leaves else "node joined"] += 1
            if not leaves:
                joined = range(self.size, self.size + self._weather.per_device)
                self._up_from |= dict.fromkeys(joined, self._clock.now + 1.0)
                self.size = joined.stop
                continue
            device = self.device(self._order % self.size)
            for worker in range(self.size):
                if self.device(worker) == device:
                    self._busy.pop(worker, None)
                    self._up_from[worker] = math.inf  # until it is started again, elsewhere
                    replies.append(Reply(worker, None, "its node left"))
        return replies

    def restart(self, worker: int) -> None:
        self._busy.pop(worker, None)
        self._up_from[worker] = self._clock.now + self._weather.starting()

    def close(self) -> None:
        self._busy.clear()


class Stub(stub_worker.Stub):
    """The stub worker, which works each row, and the batches of each shard, out once."""

    known: ClassVar[dict[tuple[str, str, int, str], list[Any]]] = {}
    known_batches: ClassVar[dict[str, str]] = {}

    def batches(self, mode: str, shard: dict[str, list[int]]) -> str:
        key = f"{mode} {shard}"
        if key not in self.known_batches:
            self.known_batches[key] = super().batches(mode, shard)
        return self.known_batches[key]

    def row(self, recipe: dict[str, Any], name: str, task: str, i: int, mode: str) -> list[Any]:
        key = name, task, i, mode
        if key not in self.known:
            self.known[key] = super().row(recipe, name, task, i, mode)
        return list(self.known[key])


def run_to_the_end(
    config: StudyConfig,
    run: Path,
    seed: int,
    patch: pytest.MonkeyPatch,
    lies: bool = False,
    elastic: bool = False,
) -> Counter[str]:
    """Run a study's command again and again, in the weather of a seed, until it has a verdict.

    Returns:
        How often each thing happened.

    Raises:
        AssertionError: It never ends.
    """
    clock, happened = Clock(), Counter[str]()
    simulate(patch, clock)
    for session in range(SESSIONS):
        weather = Weather(seed, session, lies, elastic) if seed >= 0 else calm()
        pools: list[SimulatedPool] = []

        def open_pool(
            config: StudyConfig,
            _log: Path,
            weather: Weather = weather,
            pools: list[SimulatedPool] = pools,
        ) -> SimulatedPool:
            pools.append(SimulatedPool(config, weather, clock))
            return pools[0]

        patch.setattr(study_module, "open_pool", open_pool)
        weather.kill_at += clock.now
        faults.arm(weather.disk)
        asked = config.to_dict() | {
            "workers": {
                **config.to_dict()["workers"],
                "count": "all" if elastic else weather.workers,
            }
        }
        study = Study(StudyConfig.from_dict(asked, Path("/")), run)
        try:
            study.confirm(progress=False)
        except KilledError:
            happened["driver killed"] += 1
            with open(run / JOURNAL, "ab") as journal:
                journal.write(weather.torn())
        except UserError as error:
            happened["stopped"] += 1
            assert_resumable(str(error), seed)
        else:
            happened["sessions"] = session + 1
            return happened + pools[0].faults_seen if pools else happened
        finally:
            faults.arm(None)
            if pools:
                happened += pools[0].faults_seen
    raise AssertionError(f"seed {seed}: no verdict after {SESSIONS} sessions")


@cache
def quantile(values: bytes, counts: bytes, probability: float) -> float:
    """The studies' own, worked out once: many studies judge by the same numbers."""
    return weighted_mean.quantile(np.frombuffer(values), np.frombuffer(counts), probability)


def simulate(patch: pytest.MonkeyPatch, clock: Clock) -> None:
    """Let a study live by this clock, and wait for no disk."""
    for module in (scheduler, durations, search, study_module, ledger_module, stub_worker):
        patch.setattr(module, "time", clock)
    patch.setattr(paired, "quantile", lambda v, c, p: quantile(v.tobytes(), c.tobytes(), p))
    patch.setattr(journal_module, "sync_data", lambda _: None)  # a page cache survives the process


def calm() -> Weather:
    """Return the weather of the reference: one worker, and nothing goes wrong."""
    weather = Weather(0, 0)
    weather.worst, weather.workers, weather.kill_at, weather.disk = 0.0, 1, math.inf, None
    return weather


def assert_resumable(message: str, seed: int) -> None:
    """A study that stops says how it goes on."""
    assert "same command" in message or "resume" in message, f"seed {seed}: {message}"
