"""Soak: a long study whose workers are killed at random, and studies whose driver is.

    python experiments/soak/run.py                       stand-in workers, about three minutes
    python experiments/soak/run.py --study DEMO/study.yaml --trials 1000    real workers as well

Prints one line of JSON per part: what was killed, lost, paid twice, leaked.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from evomerge.study.config import StudyConfig
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


def held() -> dict[str, int]:
    """What this process holds: memory in kilobytes, descriptors, children, threads."""
    status = Path("/proc/self/status").read_text()
    return {
        "rss_kb": int(status.split("VmRSS:")[1].split()[0]),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "children": len(children(os.getpid())),
        "threads": threading.active_count(),
    }


def kill_workers(config: StudyConfig, run: Path, mean_seconds: float, most: int, seed: int) -> Any:
    """Run a study in this process while its workers are killed at random moments."""
    draw, stop, kills = random.Random(seed), threading.Event(), [0]

    def assassin() -> None:
        while not stop.wait(draw.expovariate(1 / mean_seconds)) and kills[0] < most:
            with contextlib.suppress(ProcessLookupError, IndexError):
                os.kill(draw.choice(children(os.getpid())), signal.SIGKILL)
                kills[0] += 1

    marks: list[dict[str, int]] = []

    def listen(event: Any, record: Any) -> None:
        del record
        if event["event"] == "told":
            marks.append(held())

    before, began = held(), time.monotonic()
    thread = threading.Thread(target=assassin)
    thread.start()
    try:
        Study(config, run, listen).confirm()
    finally:
        stop.set()
        thread.join()
    after, twice = held(), [n for n in paid(run).values() if n > 1]
    quarter = marks[len(marks) // 4]
    return {
        "trials": sum(len(e["trials"]) for e in events(run, "asked")),
        "worker_kills": kills[0],
        "failed_trials": len(events(run, "failed")),
        "paid_twice": len(twice),
        "outcomes": sum(len(e["rows"]) for e in events(run, "outcomes")),
        "children_left": after["children"] - before["children"],
        "descriptors_left": after["descriptors"] - before["descriptors"],
        "threads_left": after["threads"] - before["threads"],
        "files": sorted(str(p.relative_to(run)) for p in run.rglob("*") if ".partial-" in p.name),
        "rss_kb_at_a_quarter": quarter["rss_kb"],
        "rss_kb_at_the_end": marks[-1]["rss_kb"],
        "seconds": round(time.monotonic() - began, 1),
    }


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
    parser.add_argument("--only", nargs="+", choices=("workers", "drivers", "real"))
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = told.only or ["workers", "drivers", *(["real"] if told.study else [])]
        for part in parts:
            print(json.dumps({part: run_part(part, folder, told)}), flush=True)


def run_part(part: str, folder: Path, told: argparse.Namespace) -> Any:
    if part == "drivers":
        return kill_drivers(folder, told.kills, told.seed)
    if part == "workers":
        python, sys.executable = sys.executable, stub_executable(folder)
        try:
            document = stub_document(search={"trials": told.trials, "population": 20})
            config = StudyConfig.from_dict(document, Path("/"))
            return kill_workers(config, folder / "stub", 2.0, 10_000, told.seed)
        finally:
            sys.executable = python
    document = StudyConfig.from_yaml(told.study).to_dict()
    document["search"]["trials"] = told.trials
    document["workers"] = {"backend": "local", "count": 2, "device": "cpu"}
    document["output"]["save_model"] = False
    config = StudyConfig.from_dict(document, told.study.parent)
    return kill_workers(config, folder / "real", 10, told.worker_kills, told.seed)


if __name__ == "__main__":
    main()
