"""Defines fault points, where a test makes this program fail by setting an environment variable.

``EVOMERGE_FAULT=point:count:action`` lets the `count`-th arrival at a point fail. A fourth field
names a file that is made when the fault strikes; while it exists the fault strikes no more, in this
process or another (workers inherit the variable). Without the variable a point costs one look at a
name that is None.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable

from evomerge.core.errors import UserError, unknown

POINTS = {
    "journal.write": "an event is about to be written",
    "journal.sync": "it is written, and not yet known to be on the disk",
    "journal.truncate": "a torn tail is about to be cut off",
    "file.write": "a small file is about to be written next to its final place",
    "file.sync": "it is written, and not yet known to be on the disk",
    "file.rename": "it is about to take its final name",
    "shard.write": "a shard of weights is about to be written",
    "folder.sync": "a model folder is written, and not yet known to be on the disk",
    "folder.rename": "it is about to take its final name",
    "pool.spawn": "a worker is about to be started",
    "pool.submit": "a request is about to be sent to a worker",
    "pool.reply": "replies of workers were taken in, and nothing was done with them yet",
    "pool.close": "all workers are about to be ended",
    "worker.start": "a worker has read its configuration",
    "worker.evaluate": "a worker is about to build and score a candidate",
    "worker.gradient": "a worker is about to build a candidate and differentiate its loss",
    "worker.measure": "a worker is about to make a statistic of a parent",
    "worker.answer": "its answer is about to be sent",
}


def _signal(number: signal.Signals) -> Callable[[], None]:
    def strike() -> None:
        if number in (signal.SIGSEGV, signal.SIGBUS):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    return strike


def _error(error: BaseException) -> Callable[[], None]:
    def strike() -> None:
        raise error

    return strike


ACTIONS: dict[str, Callable[[], None]] = {
    "kill": _signal(signal.SIGKILL),
    "segv": _signal(signal.SIGSEGV),
    "bus": _signal(signal.SIGBUS),
    "term": _signal(signal.SIGTERM),
    "int": _signal(signal.SIGINT),
    "hang": lambda: time.sleep(1e6),
    "exit": lambda: os._exit(3),
    "error": _error(RuntimeError("a fault was injected here")),
    "eio": _error(OSError(errno.EIO, os.strerror(errno.EIO))),
    "enospc": _error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
    "oom": _error(MemoryError("a fault was injected here")),
    "cuda": _error(RuntimeError("CUDA error: device-side assert triggered")),
}


class _Armed:
    """One fault, waiting for its arrival."""

    def __init__(self, text: str):
        point, count, action, mark = [*text.split(":", 3), "", "", ""][:4]
        if point not in POINTS:
            raise UserError(f"EVOMERGE_FAULT: {unknown('point', point, POINTS)}")
        if action not in ACTIONS:
            raise UserError(f"EVOMERGE_FAULT: {unknown('action', action, ACTIONS)}")
        if not count.isdecimal() or int(count) < 1:
            raise UserError(f"EVOMERGE_FAULT: expected a count of at least 1, but got {count!r}")
        self.point, self.left, self.action = point, int(count), ACTIONS[action]
        self.mark = mark

    def arrive(self, point: str) -> None:
        if point != self.point:
            return
        self.left -= 1
        if self.left == 0 and self._may_strike():
            self.action()

    def _may_strike(self) -> bool:
        if not self.mark:
            return True
        try:
            os.close(os.open(self.mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return False
        return True


def arm(text: str | None) -> None:
    """Let this fault strike, instead of the one that the environment named; none disarms."""
    global _armed
    _armed = _Armed(text) if text else None


_armed: _Armed | None = None
arm(os.environ.get("EVOMERGE_FAULT"))


def reach(point: str) -> None:
    """Arrive at a fault point."""
    if _armed is not None:
        _armed.arrive(point)
