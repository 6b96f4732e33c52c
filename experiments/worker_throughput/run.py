"""Measures what workers and the loop around them cost: ``python run.py WHAT [ARGUMENTS]`` (JSON).

WHAT is one of

    busy        8 and 32 sleeping workers: the share of their time that they work;
                ARGUMENT: seconds of a candidate, 4 by default
    growth      1,000 trials without sleep: seconds and memory, last hundred over first hundred
    loop        10,000 trials without sleep: milliseconds a trial, journal and fdatasync included;
                ARGUMENT of both: optimizers, such as cmaes,random
    resume      10,000 trials with nothing left to do, in a process of its own: seconds of the
                processor of journal, whole study, status and report, and megabytes;
                ARGUMENTS: optimizers, trials, knots (half as many as dimensions)
    workers     two real workers against one on the demo zoo, interleaved;
                ARGUMENTS: DEMO_DIR, rounds, trials
    soak        1,000 trials of a real worker on the demo zoo: as growth;
                ARGUMENTS: DEMO_DIR, trials

RUNS in the environment names a folder for the runs, such as /dev/shm where no disk should count.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from stand_in import SleepingPool, study

from evomerge import optimizers as search
from evomerge.report import status_text
from evomerge.report.page.page import page
from evomerge.report.run import Run
from evomerge.study import study as study_module
from evomerge.study.config import StudyConfig
from evomerge.study.journal.codec import parse_all
from evomerge.study.journal.events import AskedEvent, Event, SearchEndedEvent, ToldEvent
from evomerge.study.journal.journal import JOURNAL, iterate
from evomerge.study.journal.record import Record
from evomerge.study.study import Study

PAGE = os.sysconf("SC_PAGE_SIZE")


class Clock:
    """Listens to a study: when each generation was told, and the memory then."""

    def __init__(self) -> None:
        self.moments_seen: list[
            tuple[float, int, int]
        ] = []  # moment, trials so far, bytes held, workers' too
        self.anchors = self.ended = 0.0
        self.trials = 0

    def __call__(self, event: Event, _record: Any) -> None:
        if isinstance(event, AskedEvent) and event.trials[0].generation == 0:
            self.anchors = time.monotonic()
        elif isinstance(event, ToldEvent):
            self.trials += len(event.trials)
            bytes_used = resident() + sum(map(resident, children()))
            self.moments_seen.append((time.monotonic(), self.trials, bytes_used))
        elif isinstance(event, SearchEndedEvent):
            self.ended = time.monotonic()

    def over(self, first: int, last: int) -> dict[str, float]:
        """Milliseconds a trial, and megabytes at the end, from one number of trials to another."""
        moments = [(self.anchors, 0, 0), *self.moments_seen]
        start = max((m for m in moments if m[1] <= first), key=lambda m: m[1])
        end = min((m for m in moments if m[1] >= last), key=lambda m: m[1])
        return {
            "ms": 1000 * (end[0] - start[0]) / (end[1] - start[1]),
            "mb": end[2] / 1e6,
        }


def children() -> list[int]:
    """Process numbers of the local workers, which this process's threads started."""
    lists = Path("/proc/self/task").glob("*/children")
    return [int(number) for one in lists for number in one.read_text().split()]


def resident(process: int | str = "self") -> int:
    """Bytes of memory that a process holds."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE


def peak() -> float:
    """Megabytes of memory that this process has held at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1e3


def searched(config: StudyConfig, clock: Clock, again: bool = False) -> float:
    """Search in a folder that is thrown away; returns how many seconds doing it again takes.

    The second time nothing is left to do: journal, optimizer and all recipes are only replayed.
    """
    with tempfile.TemporaryDirectory(dir=os.environ.get("RUNS")) as run:
        Study(config, run, clock).optimize()
        began = time.monotonic()
        if again:
            Study(config, run).optimize()
        return time.monotonic() - began


def busy(mean_seconds: float = 4.0) -> None:
    """Sleeping workers, four candidates of 16 shards for each in a generation; four generations."""
    study_module.open_pool = SleepingPool
    SleepingPool.mean_seconds = mean_seconds
    for workers, spread in [(8, 0.5), (32, 0.5), (8, 1.0), (32, 1.0)]:
        SleepingPool.spread = spread
        population = 4 * workers
        clock = Clock()
        searched(study(4 * population, population, workers), clock)
        span = clock.ended - clock.anchors
        units = [
            (min(end, clock.ended) - max(start, clock.anchors), first)
            for start, end, first in SleepingPool.last.busy
            if end > clock.anchors
        ]
        show(
            what="busy",
            workers=workers,
            sigma=spread,
            population=population,
            units=len(units),
            mean_seconds=SleepingPool.mean_seconds,
            busy=sum(u for u, _ in units) / (workers * span),
            busy_without_repeats=sum(u for u, first in units if first) / (workers * span),
            repeated=sum(not first for _, first in units),
        )


def growth(trials: int = 1000, what: str = "growth", chosen: str = "cmaes,catcma,random") -> None:
    """No sleep, a shard a trial: what the loop itself costs, early and late."""
    study_module.open_pool = SleepingPool
    SleepingPool.mean_seconds = 0.0
    for optimizer in chosen.split(","):
        clock = Clock()
        again = searched(study(trials, 20, 1, optimizer, shards=1), clock, again=True)
        first, last = clock.over(20, 120), clock.over(trials - 100, trials)
        show(
            what=what,
            optimizer=optimizer,
            trials=trials,
            first_ms=first["ms"],
            last_ms=last["ms"],
            ratio=last["ms"] / first["ms"],
            first_mb=first["mb"],
            last_mb=last["mb"],
            memory_ratio=last["mb"] / first["mb"],
            fdatasync_ms=fdatasync_ms(),
            again_seconds=again,
        )


def resume(chosen: str = "catcma,cmaes,random", trials: int = 10_000, knots: int = 5) -> None:
    """Search, then begin again in new processes; the last line of each is what it measured."""
    study_module.open_pool = SleepingPool
    SleepingPool.mean_seconds = 0.0
    for optimizer in chosen.split(","):
        with tempfile.TemporaryDirectory(dir=os.environ.get("RUNS")) as run:
            Study(study(trials, 20, 1, optimizer, 1, knots), run).optimize()
            again = [sys.executable, __file__, "again", run, optimizer, str(trials), str(knots)]
            for _ in range(3):
                subprocess.run(again, check=True)


def again(run: Path, optimizer: str, trials: int, knots: int) -> None:
    """Measure one resume, its imports apart."""
    imports = time.process_time()  # torch among them
    search.create(optimizer)  # its library is imported when it is made
    study_module.open_pool = SleepingPool
    SleepingPool.mean_seconds = 0.0
    megabytes = [resident() / 1e6]
    gc.freeze()  # as the command does it
    moments = [time.process_time()]
    record = Record.from_events(parse_all(iterate(run / JOURNAL)))
    moments.append(time.process_time())
    megabytes.append(resident() / 1e6)
    Study(study(trials, 20, 1, optimizer, 1, knots), run).optimize()
    moments.append(time.process_time())
    status_text(record)
    moments.append(time.process_time())
    page(Run.read(run))
    moments.append(time.process_time())
    journal, whole, status, report = (b - a for a, b in itertools.pairwise(moments))
    show(
        what="resume",
        optimizer=optimizer,
        trials=len(record.trials),
        dimensions=2 * knots,
        journal_mb=(run / JOURNAL).stat().st_size / 1e6,
        imports_seconds=imports,
        journal_seconds=journal,
        journal_held_mb=megabytes[1] - megabytes[0],
        resume_seconds=whole,
        status_seconds=journal + status,
        report_seconds=report,
        most_mb=peak(),
        imported_mb=megabytes[0],
    )


def workers(demo: Path, rounds: int = 5, trials: int = 42) -> None:
    """Trials per second of the search, two workers over one; start-up is not counted."""
    ratios = []
    for number in range(rounds):
        speed = {}
        for count in (1, 2) if number % 2 else (2, 1):
            clock = Clock()
            searched(real(demo, trials, count), clock)
            speed[count] = trials / (clock.ended - clock.anchors)
        ratios.append(speed[2] / speed[1])
        show(what="workers", one=speed[1], two=speed[2], ratio=ratios[-1])
    show(what="workers", median=statistics.median(ratios), low=min(ratios), high=max(ratios))


def soak(demo: Path, trials: int = 1008) -> None:
    """A thousand trials with real workers."""
    clock = Clock()
    searched(real(demo, trials, 1), clock)
    asked = clock.trials  # whole generations, at most as many as were wanted
    first, last = clock.over(0, 100), clock.over(asked - 100, asked)
    each = [round(clock.over(n, n + 100)["ms"], 1) for n in range(0, asked - 99, 100)]
    ratio = last["ms"] / first["ms"]
    show(what="soak", trials=asked, first=first, last=last, ratio=ratio, ms_of_each_hundred=each)


def real(demo: Path, trials: int, count: int) -> StudyConfig:
    """The demo's study with local workers."""
    config = StudyConfig.from_yaml(demo / "study.yaml")
    return dataclasses.replace(
        config,
        search=dataclasses.replace(config.search, trials=trials),
        workers=dataclasses.replace(config.workers, backend="local", count=count),
    )


def fdatasync_ms() -> float:
    """The median of what one small write and fdatasync takes here."""
    with tempfile.NamedTemporaryFile(dir=os.environ.get("RUNS")) as file:
        spent = []
        for _ in range(50):
            began = time.perf_counter()
            os.write(file.fileno(), b"x" * 4000)
            os.fdatasync(file.fileno())
            spent.append(1000 * (time.perf_counter() - began))
    return statistics.median(spent)


def show(**row: Any) -> None:
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
    print(json.dumps(rounded), flush=True)


if __name__ == "__main__":
    chosen, *rest = sys.argv[1:]
    if chosen == "busy":
        busy(*map(float, rest))
    elif chosen == "resume":
        resume(*rest[:1], *map(int, rest[1:]))
    elif chosen == "again":
        again(Path(rest[0]), rest[1], *map(int, rest[2:]))
    elif chosen in ("growth", "loop"):
        growth({"growth": 1000, "loop": 10_000}[chosen], chosen, *rest)
    else:
        {"workers": workers, "soak": soak}[chosen](Path(rest[0]), *map(int, rest[1:]))
