"""A driver that is process 1, as in a container without an init, keeps its workers."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc"]
# A driver: starts a worker as the local pool does, asks it something, prints the answer.
DRIVER = """
import json, os, subprocess, sys
number = os.getpid() if sys.argv[1] == "own" else int(sys.argv[1])
worker = subprocess.Popen(
    [sys.executable, "-m", "evomerge.study.workers.child", str(number)],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
)
out, _ = worker.communicate(json.dumps({"versions": {"evomerge": "0"}}) + '\\n{"kind": "x"}\\n')
print(json.dumps([os.getpid(), worker.returncode, out]))
"""


@functools.cache
def can_unshare() -> bool:
    """Return whether this user may make processes whose numbers begin at 1."""
    command = [*UNSHARE, "true"]
    return bool(shutil.which("unshare")) and not subprocess.run(command, check=False).returncode


def driven(number: str, before: list[str]) -> list[object]:
    done = subprocess.run(
        [*before, sys.executable, "-c", DRIVER, number],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    said: list[object] = json.loads(done.stdout)
    return said


@pytest.mark.skipif("not can_unshare()", reason="may not make a process 1")
def test_a_worker_of_process_1_answers() -> None:
    number, code, out = driven("own", UNSHARE)
    assert number == 1
    assert code == 0
    assert "runs other versions than the driver" in str(out)


@pytest.mark.skipif("not can_unshare()", reason="may not make a process 1")
def test_a_worker_below_an_init_that_is_process_1_answers() -> None:
    init = [*UNSHARE, "sh", "-c", '"$@"; exit $?', "init"]  # as tini: waits for its one child
    number, code, out = driven("own", init)
    assert number != 1
    assert (code, bool(out)) == (0, True)


def test_a_worker_whose_driver_is_gone_by_the_time_it_asks_ends() -> None:
    _, code, out = driven("1", [])  # its parent is another process than the driver that it is told
    assert (code, out) == (1, "")


@pytest.mark.slow
@pytest.mark.skipif("not can_unshare()", reason="may not make a process 1")
def test_a_whole_study_runs_as_process_1(small_study_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "evomerge", "search", str(small_study_file)]
    done = subprocess.run(
        [*UNSHARE, *command, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "verdict.json").is_file()
