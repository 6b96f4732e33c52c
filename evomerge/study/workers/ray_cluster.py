"""Watches a Ray cluster: its head may fall silent, or have no capacity for a worker. Needs no Ray.

Ray waits a minute for a lost head and then ends this process. We give up earlier, so that the
journal is closed and the user reads how to resume.

Ray queues unschedulable actors silently, since a node may still come. We wait too, but report it,
and give up after ten minutes if no node ever had the capacity for one.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence

from evomerge.core.errors import ResumableError, UserError
from evomerge.study.config import WorkersConfig

HEAD_PATIENCE = 30.0  # seconds without an answer; Ray gives up after 60
_CHECK_SECONDS = 2.0  # between two checks of the head
_TIMEOUT = 3.0  # seconds for the head to accept a connection

Resources = Mapping[str, float]
_KINDS = ("CPU", "GPU")

REPORT_AFTER = 8.0  # seconds: nodes that are just starting have joined
BUSY_AFTER = 60.0  # ... where all fit: their processes may only be slow to start
GIVE_UP_AFTER = 600.0  # seconds: an autoscaler has started a node by then


class ClusterHead:
    """The head node at ``host:port``; without an address it always counts as reachable.

    Attributes:
        is_lost: True once `check` has given it up; no call to the cluster is possible after that.
    """

    def __init__(self, address: str | None):
        self.is_lost = False
        self._address = address
        self._asked = self._answered = time.monotonic()

    def check(self) -> None:
        """Check that the head accepts connections, at most every `_CHECK_SECONDS`.

        Raises:
            ResumableError: It has not answered for `HEAD_PATIENCE` seconds.
        """
        now = time.monotonic()
        if self._address is None or now - self._asked < _CHECK_SECONDS:
            return
        why = unreachable(self._address, _TIMEOUT)
        self._asked = time.monotonic()
        if why is None:
            self._answered = self._asked
        elif self._asked - self._answered > HEAD_PATIENCE:
            self.is_lost = True
            raise ResumableError(
                f"workers: the head of the Ray cluster at {self._address} is lost ({why}); "
                "finished work is kept: start a cluster and run the same command again to resume"
            )

    def wait(self) -> None:
        """Block until the head accepts connections.

        Raises:
            ResumableError: As for `check`.
        """
        while self._address is not None and unreachable(self._address, _TIMEOUT) is not None:
            self.check()
            time.sleep(0.5)


def check_reachable(address: str) -> None:
    """Refuse an address where nothing listens; Ray itself would take minutes to report it.

    Raises:
        UserError: Nothing listens there.
    """
    why = unreachable(address)
    if why is not None:
        raise UserError(
            f"workers.ray_address: expected a Ray cluster at {address}, but {why}; start one "
            "with `ray start --head`, or leave the address out"
        )


def unreachable(address: str, timeout: float = 10.0) -> str | None:
    """Return why ``host:port`` refuses a connection; ``None`` if it accepts, or is no host:port."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "//" in host:
        return None
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=timeout).close()
    except (OSError, OverflowError) as error:
        return str(error)
    return None


def capacity(nodes: Sequence[Resources], workers: WorkersConfig) -> int:
    """Count the workers that the nodes could hold if nobody else used them; each is on one node.

    >>> capacity([{"CPU": 4.0}, {"CPU": 8.0, "GPU": 1.0}], WorkersConfig(threads=2, gpus=0.5))
    2
    """
    needed = _needed(workers)
    return sum(
        min(int(node.get(kind, 0.0) / share + 1e-9) for kind, share in needed.items() if share)
        for node in nodes
    )


class ClusterCapacity:
    """Reports workers that Ray cannot schedule, and gives up when none ever could be.

    Args:
        workers: What the study asks for.
        where: The cluster's address, for messages.
    """

    def __init__(self, workers: WorkersConfig, where: str):
        self._workers = workers
        self._where = where
        self._since: float | None = None  # when the oldest waiting worker began to wait
        self._is_reported = self._ever_scheduled_one = False

    def check(
        self,
        waiting: int,
        cluster: Callable[[], tuple[Sequence[Resources], Resources]],
        count: int | None = None,
    ) -> str | None:
        """Return a warning about workers that are not scheduled yet, once; else ``None``.

        Args:
            waiting: How many workers are not scheduled.
            cluster: Returns each node's resources, and those that are free on the whole cluster.
            count: How many there are in all, where the study says ``all``: of these some may wait,
                for nodes come and go; ``None`` takes the study's number.

        Raises:
            ResumableError: No node within `GIVE_UP_AFTER` seconds had the capacity for one.
        """
        waiting *= count in (None, waiting)
        count = self._workers.least if count is None else count
        self._ever_scheduled_one |= waiting < count
        if not waiting:
            self._since, self._is_reported = None, False
            return None
        self._since = self._since or time.monotonic()
        waited = time.monotonic() - self._since
        if self._is_reported and (self._ever_scheduled_one or waited < GIVE_UP_AFTER):
            return None
        if waited < REPORT_AFTER:
            return None
        nodes, free = cluster()
        fit = capacity(nodes, self._workers)
        if fit >= count and waited < BUSY_AFTER:
            return None
        has = {kind: sum(node.get(kind, 0.0) for node in nodes) for kind in _KINDS}
        needs = (
            f"each needs {_named(_needed(self._workers))}, and the Ray cluster at {self._where} "
            f"has {_named(has)} on {len(nodes)} node{'s' * (len(nodes) != 1)}, "
            f"of which {_named(free)} are free"
        )
        larger = "ask for less (workers.threads, workers.gpus), or add a node that is large enough"
        if self._is_reported:
            if fit:
                return None
            raise ResumableError(f"workers: no node came that can hold one: {needs}; {larger}")
        self._is_reported = True
        if not fit:
            patience = f"waiting {GIVE_UP_AFTER / 60:g} minutes for a node that can"
            return f"workers: no node can hold one: {needs}; {patience}; {larger}"
        goes_on = "the study goes on without them" if waiting < count else "the study waits"
        fewer = f"; ask for no more than {fit} (--workers {fit}), or add nodes" * (fit < count)
        return f"workers: {waiting} of {count} wait for a place: {needs}; {goes_on}{fewer}"


def _needed(workers: WorkersConfig) -> Resources:
    return {"CPU": workers.threads, "GPU": workers.gpus}


def _named(resources: Resources) -> str:
    """Write CPUs and GPUs with their numbers.

    >>> _named({"CPU": 1.0, "GPU": 0.5, "memory": 9.0})
    '1 CPU and 0.5 GPUs'
    """
    amounts = ((resources.get(kind, 0.0), kind) for kind in _KINDS)
    return " and ".join(f"{n:g} {kind}{'s' * (n != 1)}" for n, kind in amounts)
