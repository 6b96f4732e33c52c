"""Workers that find no place on a cluster: what is said, when, and when that is the end."""

from __future__ import annotations

import pytest

from evomerge.core.errors import ResumableError
from evomerge.study.config import WorkersConfig
from evomerge.study.workers import ray_capacity as cluster_room
from evomerge.study.workers.ray_capacity import Resources, Room, room

SMALL: Resources = {"CPU": 2.0, "memory": 1e9}
LARGE: Resources = {"CPU": 8.0, "GPU": 4.0}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(cluster_room.time, "monotonic", lambda: now[0])
    return now


def look(watched: Room, waiting: int, *nodes: Resources, free: Resources | None = None) -> str:
    return watched.look(waiting, lambda: (nodes, free or {})) or ""


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
def test_a_worker_has_its_place_on_one_node(workers: WorkersConfig, fit: int) -> None:
    assert room([SMALL, LARGE], workers) == fit


def test_workers_that_are_placed_in_time_are_not_spoken_of(clock: list[float]) -> None:
    watched = Room(WorkersConfig(count=2), "auto")
    for waiting in (2, 2, 1, 0):
        assert not look(watched, waiting, SMALL)
        clock[0] += 2.0
    clock[0] += 1e4
    assert not look(watched, 1, SMALL)  # one is replaced: it has its own time


def test_what_waits_is_told_once_with_what_would_help(clock: list[float]) -> None:
    watched = Room(WorkersConfig(count=3, gpus=1.0), "head:6379")
    look(watched, 3, SMALL)
    clock[0] += 9.0
    told = look(watched, 1, SMALL, {"CPU": 4.0, "GPU": 2.0}, free={"CPU": 4.0})
    assert told == (
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


def test_a_cluster_that_never_held_a_worker_is_given_up(clock: list[float]) -> None:
    watched = Room(WorkersConfig(threads=4), "auto")
    look(watched, 1, SMALL)
    clock[0] += 9.0
    assert "no node can hold one: each needs 4 CPUs" in look(watched, 1, SMALL)
    clock[0] += 500.0
    assert not look(watched, 1, SMALL)
    clock[0] += 100.0
    assert not look(watched, 1, LARGE)  # a node has come
    with pytest.raises(ResumableError, match="no node came that can hold one: each needs 4 CPUs"):
        look(watched, 1, SMALL)


def test_a_cluster_that_held_a_worker_once_is_waited_for(clock: list[float]) -> None:
    watched = Room(WorkersConfig(threads=4), "auto")
    look(watched, 0, LARGE)
    look(watched, 1, SMALL)
    clock[0] += 9.0
    assert look(watched, 1, SMALL)
    clock[0] += 1e5
    assert not look(watched, 1, SMALL)
