"""A Ray cluster loses a node, or its head: what was finished is kept; the study ends the same."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from evomerge.study.config import StudyConfig
from evomerge.study.journal.events import Event, OutcomesEvent
from evomerge.study.journal.record import Record
from evomerge.study.study import JOURNAL, Study
from tests.study.small_study import events, paid, substance

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc"),
]


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters of these tests ask for a token, as ours do."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))


@pytest.mark.usefixtures("token")
def test_a_node_that_is_lost_and_replaced_in_mid_study_changes_nothing(
    finished: Path, small_study: Path, tmp_path: Path
) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=1)]
        lost: list[int] = []

        def strike(event: Event, record: Record) -> None:
            if isinstance(event, OutcomesEvent) and record.item_evaluations > 1500 and not lost:
                lost.append(record.item_evaluations)
                cluster.remove_node(nodes.pop(), allow_graceful=False)
                nodes.append(cluster.add_node(num_cpus=1))

        config = StudyConfig.from_yaml(small_study)
        workers = replace(config.workers, backend="ray", ray_address=cluster.address, count=1)
        Study(replace(config, workers=workers), tmp_path / "run", strike).confirm()
        assert lost
        assert substance(tmp_path / "run") == substance(finished)
        assert set(paid(tmp_path / "run").values()) == {1}
    finally:
        import ray

        ray.shutdown()
        cluster.shutdown()


@contextlib.contextmanager
def head(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A cluster of one node in a session of its own, so that it can be killed whole."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    command += [f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    log = folder / f"head-{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        deadline = time.monotonic() + 120
        while "Ray runtime started" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        try:
            yield f"127.0.0.1:{port}", process
        finally:
            kill_session(process)


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all of its session, as a machine that goes does."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == process.pid:
                os.kill(int(stat.parent.name), signal.SIGKILL)
    process.kill()
    process.wait()


@pytest.mark.usefixtures("token")
def test_a_head_that_is_lost_ends_the_command_and_a_new_cluster_resumes_it(
    finished: Path, small_study: Path, tmp_path: Path
) -> None:
    run, output = tmp_path / "run", tmp_path / "output"
    document = StudyConfig.from_yaml(small_study).to_dict()
    (tmp_path / "study.yaml").write_text(json.dumps(document))
    command = [sys.executable, "-m", "evomerge", "search", str(tmp_path / "study.yaml"), str(run)]

    def started(address: str) -> subprocess.Popen[bytes]:
        with output.open("ab") as log:
            return subprocess.Popen(
                [*command, "--ray-address", address], stdout=log, stderr=subprocess.STDOUT
            )

    with head(tmp_path) as (address, process):
        driver = started(address)
        deadline = time.monotonic() + 240
        while not (run / JOURNAL).exists() or len(events(run)) < 30:
            assert driver.poll() is None, output.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        kill_session(process)
        began = time.monotonic()
        code = driver.wait(timeout=180)
    said = output.read_text()
    assert code == 2, said
    assert time.monotonic() - began < 60  # before Ray ends it
    (error,) = [line for line in said.splitlines() if "error" in line.lower()]
    port = address.rpartition(":")[2]
    assert re.match(
        rf"evomerge: error: workers: the head of the Ray cluster at \S+:{port} is", error
    )
    assert error.endswith(f"To resume: evomerge search {command[4]} {run} --ray-address {address}")
    assert "Traceback" not in said
    before = set(paid(run))
    with head(tmp_path) as (address, _):
        assert started(address).wait(timeout=300) == 0, output.read_text()
    assert before <= set(paid(run))
    assert set(paid(run).values()) == {1}
    assert substance(run) == substance(finished)
