"""A silent head, and workers that fit on no node, are waited for, reported and then given up."""

from __future__ import annotations

import socket

import pytest

from evomerge.core.errors import ResumableError
from evomerge.study.config import WorkersConfig
from evomerge.study.workers import ray_cluster
from evomerge.study.workers.ray_cluster import (
    ClusterCapacity,
    ClusterHead,
    Resources,
    capacity,
    unreachable,
)

SMALL: Resources = {"CPU": 2.0, "memory": 1e9}
LARGE: Resources = {"CPU": 8.0, "GPU": 4.0}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which passes in sleeps, and where a test moves it on."""
    now = [1000.0]
    monkeypatch.setattr(ray_cluster.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(ray_cluster.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    return now


def listener(port: int = 0) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    made.listen()
    return made


def test_a_head_that_is_silent_for_half_a_minute_is_lost(clock: list[float]) -> None:
    with listener() as there:
        port = there.getsockname()[1]
        head = ClusterHead(f"127.0.0.1:{port}")
        clock[0] += 100.0
        head.check()
    for _ in range(10):  # 30 seconds
        clock[0] += 3.0
        head.check()
    assert not head.is_lost
    clock[0] += 3.0
    with pytest.raises(ResumableError, match=f"127.0.0.1:{port} is lost .*refused.*kept"):
        head.check()
    assert head.is_lost


def test_a_head_that_comes_back_in_time_is_not_lost(clock: list[float]) -> None:
    with listener() as there:
        port = there.getsockname()[1]
        head = ClusterHead(f"127.0.0.1:{port}")
    for _ in range(9):
        clock[0] += 3.0
        head.check()
    with listener(port):
        clock[0] += 3.0
        head.check()
        head.wait()
    clock[0] += 25.0
    head.check()
    assert not head.is_lost


def test_waiting_for_a_lost_head_raises(clock: list[float]) -> None:
    with listener() as there:
        port = there.getsockname()[1]
    head = ClusterHead(f"127.0.0.1:{port}")
    with pytest.raises(ResumableError, match="is lost"):
        head.wait()
    assert 30.0 < clock[0] - 1000.0 < 40.0


@pytest.mark.parametrize("address", ["auto", "ray://somewhere:10001", "node:", ":x"])
def test_an_address_without_host_and_port_is_not_checked(address: str, clock: list[float]) -> None:
    assert unreachable(address) is None
    head = ClusterHead(None)
    clock[0] += 1e6
    head.check()
    head.wait()


def look(
    watched: ClusterCapacity, waiting: int, *nodes: Resources, free: Resources | None = None
) -> str:
    return watched.check(waiting, lambda: (nodes, free or {})) or ""


@pytest.mark.parametrize(
    ("workers", "fit"),
    [
        (WorkersConfig(), 10),
        (WorkersConfig(threads=3), 2),  # none on the small node
        (WorkersConfig(gpus=1.0), 4),
        (WorkersConfig(gpus=0.1), 8),  # 40 by its GPUs, 8 by its CPUs
        (WorkersConfig(threads=4, gpus=2.0), 2),
        (WorkersConfig(gpus=8.0), 0),
    ],
)
def test_a_worker_is_on_one_node(workers: WorkersConfig, fit: int) -> None:
    assert capacity([SMALL, LARGE], workers) == fit


def test_workers_that_start_in_time_are_not_reported(clock: list[float]) -> None:
    watched = ClusterCapacity(WorkersConfig(count=2), "auto")
    for waiting in (2, 2, 1, 0):
        assert not look(watched, waiting, SMALL)
        clock[0] += 2.0
    clock[0] += 1e4
    assert not look(watched, 1, SMALL)  # one is replaced: it has its own time


def test_waiting_workers_are_reported_once_with_a_remedy(clock: list[float]) -> None:
    watched = ClusterCapacity(WorkersConfig(count=3, gpus=1.0), "head:6379")
    look(watched, 3, SMALL)
    clock[0] += 9.0
    warning = look(watched, 1, SMALL, {"CPU": 4.0, "GPU": 2.0}, free={"CPU": 4.0})
    assert warning == (
        "workers: 1 of 3 wait for a place: each needs 1 CPU and 1 GPU, and the Ray cluster at "
        "head:6379 has 6 CPUs and 2 GPUs on 2 nodes, of which 4 CPUs and 0 GPUs are free; the "
        "study goes on without them; ask for no more than 2 (--workers 2), or add nodes"
    )
    clock[0] += 1e5
    assert not look(watched, 1, SMALL)
    look(watched, 0)
    assert not look(watched, 3, SMALL)
    clock[0] += 59.0
    assert not look(watched, 3, LARGE)  # processes may be slow to start
    clock[0] += 2.0
    assert look(watched, 3, LARGE).endswith("0 GPUs are free; the study waits")  # others use it


def test_a_cluster_that_never_ran_a_worker_is_given_up(clock: list[float]) -> None:
    watched = ClusterCapacity(WorkersConfig(threads=4), "auto")
    look(watched, 1, SMALL)
    clock[0] += 9.0
    assert "no node can hold one: each needs 4 CPUs" in look(watched, 1, SMALL)
    clock[0] += 500.0
    assert not look(watched, 1, SMALL)
    clock[0] += 100.0
    assert not look(watched, 1, LARGE)  # a node has come
    with pytest.raises(ResumableError, match="no node came that can hold one: each needs 4 CPUs"):
        look(watched, 1, SMALL)


def test_of_all_workers_some_may_wait_without_a_word_but_not_all_of_them(
    clock: list[float],
) -> None:
    watched = ClusterCapacity(WorkersConfig(count="all", threads=4), "auto")
    nodes = lambda: ([SMALL], {})  # noqa: E731
    assert watched.check(3, nodes, count=4) is None
    clock[0] += 1e4
    assert watched.check(3, nodes, count=4) is None
    assert watched.check(4, nodes, count=4) is None
    clock[0] += 9.0
    warning = watched.check(4, nodes, count=4)
    assert warning is not None
    assert "no node can hold one: each needs 4 CPUs" in warning


def test_a_cluster_that_ran_a_worker_once_is_waited_for(clock: list[float]) -> None:
    watched = ClusterCapacity(WorkersConfig(threads=4), "auto")
    look(watched, 0, LARGE)
    look(watched, 1, SMALL)
    clock[0] += 9.0
    assert look(watched, 1, SMALL)
    clock[0] += 1e5
    assert not look(watched, 1, SMALL)
