"""Local workers and Ray actors: the same results, replaced when lost, gone when the study is."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evomerge.core.errors import ResumableError, UserError
from evomerge.study import study as study_module
from evomerge.study.config import StudyConfig, WorkersConfig
from evomerge.study.journal.events import Event, OutcomesEvent, StudyEvent
from evomerge.study.journal.record import Record
from evomerge.study.study import Study
from evomerge.study.workers import ray as ray_module
from evomerge.study.workers import ray_cluster
from evomerge.study.workers.local import LocalPool, places
from evomerge.study.workers.pool import Pool, Reply, open_pool
from evomerge.study.workers.requests import Describe, Description
from tests.study.small_study import StubWorkers, events, stub_config, substance
from tests.study.study_driver import is_running

# -- local -----------------------------------------------------------------------------------------


def gather(pool: Pool, count: int) -> dict[int, Reply]:
    """Wait for the replies of `count` workers."""
    replies: dict[int, Reply] = {}
    deadline = time.monotonic() + 60
    while len(replies) < count:
        assert time.monotonic() < deadline
        for reply in pool.poll(0.5):
            assert reply.worker not in replies
            replies[reply.worker] = reply
    return replies


def description(reply: Reply) -> Description:
    assert isinstance(reply.answer, Description)
    return reply.answer


def local(tmp_path: Path, count: int = 2) -> LocalPool:
    pool = open_pool(stub_config(workers={"count": count}), tmp_path / "workers.log")
    assert isinstance(pool, LocalPool)
    return pool


def test_each_child_answers_for_itself(stub_workers: StubWorkers, tmp_path: Path) -> None:
    stub_workers(documents=3)
    with local(tmp_path, 3) as pool:
        for worker in range(3):
            pool.submit(worker, Describe())
        replies = gather(pool, 3)
    assert all(description(reply).parameters == 1000 for reply in replies.values())


def test_a_killed_child_is_reported_once_and_replaced(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    del stub_workers
    with local(tmp_path) as pool:
        os.kill(pool.process_ids[1], signal.SIGKILL)
        lost = gather(pool, 1)[1]
        assert lost == Reply(1, None, "the worker ended with signal SIGKILL")
        pool.submit(1, Describe())  # harmless: nobody is there to read it
        pool.restart(1)
        assert not pool.poll(0.1)
        pool.submit(1, Describe())
        assert gather(pool, 1)[1].answer is not None


def test_a_restarted_child_says_nothing_of_what_it_did_before(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    del stub_workers
    with local(tmp_path, 1) as pool:
        before = pool.process_ids
        pool.submit(0, Describe())
        time.sleep(0.3)  # the answer may be in the queue by now
        pool.restart(0)
        assert not pool.poll(0.3)
        assert pool.process_ids != before
        assert not is_running(before[0])


def test_closing_ends_all_children(stub_workers: StubWorkers, tmp_path: Path) -> None:
    del stub_workers
    with local(tmp_path, 3) as pool:
        children = pool.process_ids
        assert all(map(is_running, children))
    assert not any(map(is_running, children))


def test_a_child_that_fails_says_why_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "failing"
    program.write_text("#!/bin/sh\necho Traceback >&2\necho 'ImportError: no torch' >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with local(tmp_path, 1) as pool:
        assert gather(pool, 1)[0].lost == "the worker ended with exit code 3: ImportError: no torch"


def test_an_answer_that_breaks_off_is_a_lost_worker_and_the_study_is_the_same(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    Study(stub_config(), tmp_path / "whole").confirm()
    fatal = tmp_path / "fatal"
    stub_workers(die_on=fatal)

    def strike(_event: Event, record: Record) -> None:
        if len(record.trials) > 16 and not list(tmp_path.glob("struck")):
            (tmp_path / "struck").touch()
            fatal.touch()

    Study(stub_config(), tmp_path / "broken", strike).confirm()
    assert (tmp_path / "struck").exists()
    assert not fatal.exists()
    assert substance(tmp_path / "broken") == substance(tmp_path / "whole")


# -- Ray -------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def _token() -> Iterator[None]:
    """A token of this session's own, for every cluster that it starts; Ray reads it once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
        yield


@pytest.fixture(scope="session")
def cluster(_token: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Ray cluster with 4 CPUs and a GPU that is not there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block"]
    command += [f"--port={port}", "--num-cpus=4", "--num-gpus=1", "--include-dashboard=false"]
    log = tmp_path_factory.mktemp("ray") / "log"
    with log.open("w") as output:
        head = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + 120
            while "Ray runtime started" not in log.read_text():
                assert head.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield f"127.0.0.1:{port}"
        finally:
            head.terminate()
            head.wait(timeout=60)


def test_ray_actors_on_a_running_cluster_give_what_this_process_gives(
    cluster: str,
    finished: Path,
    small_study: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two actors share the GPU; one is killed at work and replaced; the cluster stays."""
    pools: list[Any] = []
    restarted: list[int] = []

    def opened(*arguments: Any) -> Pool:
        pool = open_pool(*arguments)
        restart = pool.restart
        monkeypatch.setattr(pool, "restart", lambda n: (restarted.append(n), restart(n)))
        pools.append(pool)
        return pool

    monkeypatch.setattr(study_module, "open_pool", opened)
    actors: list[int] = []

    def strike(event: Event, record: Record) -> None:
        if isinstance(event, StudyEvent):
            actors.extend(pools[0].process_ids)
            pools[0].submit(1, Describe())  # else all could be done while it still loads
            while not pools[0].poll(1.0):
                pass
        elif isinstance(event, OutcomesEvent) and record.item_evaluations > 1500 and actors:
            os.kill(actors.pop(), signal.SIGKILL)
            os_killed.append(record.item_evaluations)
            del actors[:]

    os_killed: list[int] = []
    config = StudyConfig.from_yaml(small_study)
    workers = replace(config.workers, backend="ray", ray_address=cluster, count=2, gpus=0.5)
    Study(replace(config, workers=workers), tmp_path / "run", strike).confirm()
    assert len(os_killed) == 1
    assert len(restarted) == 1
    assert {event["worker"] for event in events(tmp_path / "run", "outcomes")} == {"0", "1"}
    assert substance(tmp_path / "run") == substance(finished)
    host, port = cluster.split(":")
    socket.create_connection((host, int(port)), timeout=5).close()


def test_workers_that_fit_on_no_node_are_reported_and_then_given_up(
    cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "REPORT_AFTER", 0.3)
    monkeypatch.setattr(ray_cluster, "GIVE_UP_AFTER", 1.2)
    where = {"backend": "ray", "ray_address": cluster, "count": 2, "gpus": 2.0}
    notices: list[str] = []
    with open_pool(stub_config(workers=where), Path("unused")) as pool:
        pool.notice = notices.append
        with pytest.raises(ResumableError, match="workers: no node came that can hold one: each"):
            gather(pool, 1)
        assert [pool.is_up(0), pool.is_up(1)] == [False, False]
    assert notices == [
        "workers: no node can hold one: each needs 1 CPU and 2 GPUs, and the Ray cluster at "
        f"{cluster} has 4 CPUs and 1 GPU on 1 node, of which 4 CPUs and 1 GPU are free; waiting "
        "0.02 minutes for a node that can; ask for less (workers.threads, workers.gpus), or add a "
        "node that is large enough"
    ]


@pytest.mark.slow
def test_a_study_goes_on_with_the_workers_that_fit_on_the_cluster(
    cluster: str, finished: Path, small_study: Path, tmp_path: Path
) -> None:
    config = StudyConfig.from_yaml(small_study)
    workers = replace(config.workers, backend="ray", ray_address=cluster, count=3, threads=2)
    Study(replace(config, workers=workers), tmp_path / "run").confirm()
    outcome = substance(tmp_path / "run")
    (warning,) = outcome.pop("warning")
    assert "1 of 3 wait for a place: each needs 2 CPUs and 0 GPUs" in warning["message"]
    assert "ask for no more than 2 (--workers 2)" in warning["message"]
    assert outcome == substance(finished)


@pytest.mark.slow
@pytest.mark.usefixtures("_token")
def test_nodes_that_join_are_used_and_nodes_that_leave_are_survived(
    finished: Path,
    small_study: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One node at first; a second joins during the search, and leaves in the middle of its work."""
    from ray.cluster_utils import Cluster

    monkeypatch.setattr(ray_module, "COUNT_SECONDS", 0.2)
    nodes: list[Any] = []
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})

    def nodes_come_and_go(event: Event, _record: Record) -> None:
        if isinstance(event, StudyEvent):
            nodes.append(cluster.add_node(num_cpus=1))
            pool = pools[0]
            until = time.monotonic() + 120
            while pool.size < 2 or not pool.is_up(1):
                assert not pool.poll(0.5), "nobody was asked"
                assert time.monotonic() < until, "the node is not used"
            pool.submit(1, Describe())  # else all could be done while it still loads
            while not pool.poll(1.0):
                pass
        elif isinstance(event, OutcomesEvent) and event.worker == "1" and len(nodes) == 1:
            nodes.append(None)
            cluster.remove_node(nodes[0], allow_graceful=False)

    pools: list[Pool] = []

    def opened(*arguments: Any) -> Pool:
        pools.append(open_pool(*arguments))
        return pools[0]

    monkeypatch.setattr(study_module, "open_pool", opened)
    try:
        config = StudyConfig.from_yaml(small_study)
        where = {"backend": "ray", "ray_address": cluster.address, "count": "all"}
        config = replace(config, workers=replace(config.workers, **where))
        Study(config, tmp_path / "run", nodes_come_and_go).confirm()
    finally:
        cluster.shutdown()
    assert len(nodes) == 2, "the second node answered, and left"
    assert {event["worker"] for event in events(tmp_path / "run", "outcomes")} >= {"0", "1"}
    assert substance(tmp_path / "run") == substance(finished)


def test_all_workers_of_this_machine_are_as_many_as_it_has_room_for() -> None:
    assert places(WorkersConfig(count="all"), gpus=0) == len(os.sched_getaffinity(0))
    assert places(WorkersConfig(count="all", threads=10_000), gpus=0) == 1
    assert places(WorkersConfig(count="all", gpus=1.0), gpus=8) == 8
    assert places(WorkersConfig(count="all"), gpus=8) == 8
    assert places(WorkersConfig(count="all", gpus=0.3), gpus=2) == 6
    assert places(WorkersConfig(count="all", gpus=4.0), gpus=6) == 1


def test_an_address_without_a_cluster_is_refused_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        config = stub_config(workers={"backend": "ray", "ray_address": address})
        with pytest.raises(UserError, match=f"expected a Ray cluster at {address}, but"):
            open_pool(config, Path("unused"))


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 4])
def test_local_workers_give_what_this_process_gives(
    finished: Path, small_study: Path, tmp_path: Path, count: int
) -> None:
    config = StudyConfig.from_yaml(small_study)
    workers = replace(config.workers, count=count)
    Study(replace(config, workers=workers), tmp_path / "run").confirm()
    assert len({event["worker"] for event in events(tmp_path / "run", "outcomes")}) == count
    assert substance(tmp_path / "run") == substance(finished)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_driver_that_started_ray_leaves_no_process_however_it_ends(
    finished: Path, small_study: Path, tmp_path: Path, end: signal.Signals
) -> None:
    config = StudyConfig.from_yaml(small_study).to_dict()
    config["workers"] |= {"backend": "ray", "count": 2}
    (tmp_path / "study.yaml").write_text(json.dumps(config))
    run = tmp_path / "run"
    command = [sys.executable, "-m", "evomerge", "search", str(tmp_path / "study.yaml"), str(run)]
    marked = {**os.environ, "STARTED_BY_THIS_TEST": str(tmp_path)}
    with (tmp_path / "output").open("w") as output:
        driver = subprocess.Popen(command, stdout=output, stderr=output, env=marked)
        deadline = time.monotonic() + 240
        while not (run / "journal.log").exists() or len(events(run)) < 30:
            assert driver.poll() is None, (tmp_path / "output").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert len(processes_with(str(tmp_path))) > 4
        driver.send_signal(end)
        code = driver.wait(timeout=60)
        assert code == (-9 if end == signal.SIGKILL else 130)
        if end != signal.SIGKILL:
            assert "To resume: evomerge search" in (tmp_path / "output").read_text()
        while left := processes_with(str(tmp_path)):
            assert time.monotonic() < deadline, left
            time.sleep(0.2)
        assert subprocess.run(command, stdout=output, stderr=output, check=False).returncode == 0
        assert substance(run) == substance(finished)


def processes_with(mark: str) -> list[str]:
    """List the commands of all processes that have a word in their environment."""
    commands = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                commands.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return commands
