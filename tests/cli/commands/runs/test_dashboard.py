"""`evomerge dashboard`: a real server on this machine, and exports."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.report import report_bench as bench

ROOT = Path(__file__).parents[3]


def test_an_export_says_how_many_trials_it_holds(evomerge: Run, tmp_path: Path) -> None:
    run = bench.write(tmp_path / "run")
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    result = evomerge("dashboard", run, "--export", url)
    assert (result.code, result.out) == (0, f"4 trials in {url}\n")


def test_a_storage_that_is_none_is_named_in_one_line(evomerge: Run, tmp_path: Path) -> None:
    run = bench.write(tmp_path / "run")
    result = evomerge("dashboard", run, "--export", "nosuch://storage")
    assert result.code == 2
    assert "--export nosuch://storage: Optuna cannot open it" in result.err
    assert result.err.count("\n") == 1


def test_the_dashboard_serves_on_this_machine_alone_and_follows_the_run(tmp_path: Path) -> None:
    pytest.importorskip("optuna_dashboard")
    events = bench.events()
    last_told = [i for i, e in enumerate(events) if e["event"] == "told"][-1]
    run = bench.write(tmp_path / "run", events[:last_told])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "evomerge", "dashboard", str(run), "--port", str(port)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        assert server.stdout is not None
        assert f"http://127.0.0.1:{port}/" in server.stdout.readline()
        assert trials(port) == 2
        bench.write(run, events)
        deadline = time.monotonic() + 60
        while trials(port) < 4:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        server.send_signal(signal.SIGINT)
        assert server.stdout is not None
        server.stdout.close()
        assert server.wait(60) == 0


def test_a_port_that_is_taken_is_reported_in_one_line(evomerge: Run, tmp_path: Path) -> None:
    pytest.importorskip("optuna_dashboard")
    run = bench.write(tmp_path / "run")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = evomerge("dashboard", run, "--port", port)
    assert result.code == 2
    assert result.err.startswith(f"evomerge: error: --port {port}: cannot listen on 127.0.0.1")


def trials(port: int) -> int:
    """The number of trials that the dashboard's interface gives."""
    deadline = time.monotonic() + 60
    while True:
        try:
            [study] = get(port, "studies")["study_summaries"]
            return len(get(port, f"studies/{study['study_id']}?after=0")["trials"])
        except OSError:  # not listening yet
            assert time.monotonic() < deadline
            time.sleep(0.2)


def get(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{path}", timeout=30) as answer:
        return json.load(answer)
