"""A cluster's head that falls silent is given up after a while; one that comes back is not."""

from __future__ import annotations

import socket

import pytest

from evomerge.core.errors import ResumableError
from evomerge.study.workers import ray_cluster as cluster_head
from evomerge.study.workers.ray_cluster import Head, unreachable


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which passes when somebody sleeps or it is moved on."""
    now = [1000.0]
    monkeypatch.setattr(cluster_head.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(cluster_head.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
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
        head = Head(f"127.0.0.1:{port}")
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
        head = Head(f"127.0.0.1:{port}")
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


def test_whoever_waits_for_a_lost_head_is_told_so(clock: list[float]) -> None:
    with listener() as there:
        port = there.getsockname()[1]
    head = Head(f"127.0.0.1:{port}")
    with pytest.raises(ResumableError, match="is lost"):
        head.wait()
    assert 30.0 < clock[0] - 1000.0 < 40.0


@pytest.mark.parametrize("address", ["auto", "ray://somewhere:10001", "node:", ":x"])
def test_what_is_no_host_and_port_is_not_looked_after(address: str, clock: list[float]) -> None:
    assert unreachable(address) is None
    head = Head(None)
    clock[0] += 1e6
    head.check()
    head.wait()
