"""Soak: a long study whose workers are killed at random, and studies whose driver is.

    python experiments/soak/run.py                       stand-in workers, about three minutes
    python experiments/soak/run.py --study DEMO/study.yaml --trials 1000    real workers as well

With `--worker-kills 0` nothing is killed: `substance` must be the same.
Prints one line of JSON per part: what was killed, lost, paid twice, leaked.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from evomerge.study.config import StudyConfig
from evomerge.study.journal.events import ToldEvent
from evomerge.study.study import JOURNAL, Study
from tests.study.small_study import (
    events,
    paid,
    stub_config,
    stub_document,
    stub_executable,
    substance,
)
from tests.study.study_driver import Drivers, children

GENERATION = 20


def resources_in_use() -> dict[str, int]:
    """Count what this process uses: memory in kilobytes, descriptors, children, threads."""
    status = Path("/proc/self/status").read_text()
    workers = children(os.getpid())
    return {
        "rss_kb": _resident(status),
        "workers_rss_kb": max((_resident(_status(w)) for w in workers), default=0),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "children": len(workers),
        "threads": len(os.listdir("/proc/self/task")),  # of libraries, too
    }


def _status(process: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/status").read_text()
    return ""


def _resident(status: str) -> int:
    return int(status.split("VmRSS:")[1].split()[0]) if "VmRSS:" in status else 0


def kill_workers(config: StudyConfig, run: Path, mean_seconds: float, most: int, seed: int) -> Any:
    """Run a study in this process while its workers are killed at random moments.

    Resources in use are compared with those after a short study that nothing happens to: what
    libraries load once, such as their own threads, is there by then.
    """
    scratch = run.with_name(f"{run.name}-scratch")  # where temporary files would be left
    scratch.mkdir()
    os.environ["TMPDIR"], tempfile.tempdir = str(scratch), None
    short = replace(config, search=replace(config.search, trials=2 * GENERATION))
    Study(short, run.with_name(f"{run.name}-short")).confirm()
    draw, stop, kills = random.Random(seed), threading.Event(), [0]

    def assassin() -> None:
        while not stop.wait(draw.expovariate(1 / mean_seconds)) and kills[0] < most:
            with contextlib.suppress(ProcessLookupError, IndexError):
                os.kill(draw.choice(children(os.getpid())), signal.SIGKILL)
                kills[0] += 1

    marks: list[dict[str, int]] = []

    def listen(event: Any, record: Any) -> None:
        del record
        if isinstance(event, ToldEvent):
            marks.append(resources_in_use())
            print(event.generation, kills[0], marks[-1], file=sys.stderr, flush=True)

    before, began, there = resources_in_use(), time.monotonic(), set(scratch.rglob("*"))
    thread = threading.Thread(target=assassin)
    thread.start()
    try:
        Study(config, run, listen).confirm()
    finally:
        stop.set()
        thread.join()
    seconds = round(time.monotonic() - began, 1)
    after, finished = resources_in_use(), substance_digest(run)
    Study(config, run).confirm()  # finds everything done, and does nothing
    assert substance_digest(run) == finished
    twice = [n for n in paid(run).values() if n > 1]
    quarters = [marks[i * len(marks) // 4 : (i + 1) * len(marks) // 4] for i in range(4)]
    return {
        "trials": sum(len(e["trials"]) for e in events(run, "asked")),
        "worker_kills": kills[0],
        "failed_trials": len(events(run, "failed")),
        "outcomes": sum(len(e["rows"]) for e in events(run, "outcomes")),
        "paid_twice": len(twice),
        "left": {key: after[key] - before[key] for key in ("children", "descriptors", "threads")},
        "files_left": sorted(
            str(p.relative_to(run.parent))
            for p in [*(set(scratch.rglob("*")) - there), *run.rglob(".*partial-*")]
        ),
        "most_in_each_quarter": {
            key: [max(mark[key] for mark in quarter) for quarter in quarters]
            for key in ("rss_kb", "workers_rss_kb", "descriptors", "threads")
        },
        "substance": finished,
        "seconds": seconds,
    }


def substance_digest(run: Path) -> str:
    """Sixteen digits that are equal for runs that differ in times alone."""
    text = json.dumps(substance(run), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def kill_drivers(folder: Path, kills_wanted: int, seed: int) -> Any:
    """Kill drivers at random moments until enough are; every study must end as if none was."""
    draw, drivers = random.Random(seed), Drivers()
    config = stub_config().to_dict()
    begun = time.monotonic()

    def start(run: Path) -> int:
        return drivers.start(
            config=config,
            directory=run,
            executable=stub_executable(folder),
            environment={"STUB_WORKER": json.dumps({"seconds": 0.002})},
            log=folder / "output",
        )

    start(folder / "whole")
    assert drivers.wait() == 0, (folder / "output").read_text()
    expected = substance(folder / "whole")
    kills = studies = lost = twice = different = 0
    while kills < kills_wanted:
        run, code = folder / f"run-{studies}", -9
        while code == -9:
            before = set(paid(run)) if (run / JOURNAL).exists() else set()
            process = start(run)
            if kills < kills_wanted:
                time.sleep(draw.uniform(0.05, 2.0))
                with contextlib.suppress(ProcessLookupError):
                    (os.killpg if kills % 2 else os.kill)(process, signal.SIGKILL)
            code = drivers.wait()
            kills += code == -9
            lost += len(before - set(paid(run))) if before else 0
        assert code == 0, (folder / "output").read_text()
        studies += 1
        print(f"{kills} kills, {studies} studies, {lost} lost", file=sys.stderr, flush=True)
        twice += sum(n > 1 for n in paid(run).values())
        different += substance(run) != expected
    drivers.close()
    return {
        "driver_kills": kills,
        "studies": studies,
        "lost": lost,
        "paid_twice": twice,
        "journals_that_differ": different,
        "seconds": round(time.monotonic() - begun, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=Path, help="a study with real models, such as the demo's")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=200, help="of drivers")
    parser.add_argument("--worker-kills", type=int, default=50, help="of real workers, at most")
    parser.add_argument("--mean-seconds", type=float, default=20, help="between those")
    parser.add_argument("--items", type=int, default=16, help="of each real task and generation")
    parser.add_argument("--only", nargs="+", choices=("workers", "drivers", "real"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = arguments.only or ["workers", "drivers", *(["real"] if arguments.study else [])]
        for part in parts:
            print(json.dumps({part: run_part(part, folder, arguments)}), flush=True)


def run_part(part: str, folder: Path, arguments: argparse.Namespace) -> Any:
    if part == "drivers":
        return kill_drivers(folder, arguments.kills, arguments.seed)
    if part == "workers":
        python, sys.executable = sys.executable, stub_executable(folder)
        try:
            document = stub_document(search={"trials": arguments.trials, "population": GENERATION})
            config = StudyConfig.from_dict(document, Path("/"))
            return kill_workers(config, folder / "stub", 2.0, 10_000, arguments.seed)
        finally:
            sys.executable = python
    document = StudyConfig.from_yaml(arguments.study).to_dict()
    document["search"]["trials"] = arguments.trials
    document["search"]["population"] = GENERATION
    document["evaluate"]["items"]["per_generation"] = arguments.items
    document["workers"] = {"backend": "local", "count": 2, "device": "cpu"}
    document["output"]["save_model"] = False
    config = StudyConfig.from_dict(document, arguments.study.parent)
    return kill_workers(
        config, folder / "real", arguments.mean_seconds, arguments.worker_kills, arguments.seed
    )


if __name__ == "__main__":
    main()
