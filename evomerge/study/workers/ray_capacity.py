"""Room for workers on a Ray cluster: how many fit, and what to say while some wait. Needs no Ray.

Ray lets an actor that fits on no node wait for ever, without a word: a node may still come. So does
a study, but it says so, and where nothing ever fitted it ends after a while.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from evomerge.core.errors import ResumableError
from evomerge.study.config import WorkersConfig

Resources = Mapping[str, float]
_KINDS = ("CPU", "GPU")

TELL_AFTER = 8.0  # seconds: nodes that are just starting have joined
BUSY_AFTER = 60.0  # ... where all fit: their processes may only be slow to start
GIVE_UP_AFTER = 600.0  # an autoscaler has started a node by then


def room(nodes: Sequence[Resources], workers: WorkersConfig) -> int:
    """Count the workers that the nodes could hold if nobody else used them; each is on one node.

    >>> room([{"CPU": 4.0}, {"CPU": 8.0, "GPU": 1.0}], WorkersConfig(threads=2, gpus=0.5))
    2
    """
    needed = _needed(workers)
    return sum(
        min(int(node.get(kind, 0.0) / share + 1e-9) for kind, share in needed.items() if share)
        for node in nodes
    )


class Room:
    """Watches workers that wait for their place.

    Args:
        workers: What the study asks for.
        where: The cluster, for people.
    """

    def __init__(self, workers: WorkersConfig, where: str):
        self._workers = workers
        self._where = where
        self._since: float | None = None  # the oldest of those that wait now
        self._is_told = self._ever_held_one = False

    def look(
        self, waiting: int, cluster: Callable[[], tuple[Sequence[Resources], Resources]]
    ) -> str | None:
        """Return a warning, once, of the workers that have no place yet.

        Args:
            waiting: How many.
            cluster: Says what each node has, and what is free of all that.

        Raises:
            ResumableError: No node that came in `GIVE_UP_AFTER` seconds could hold one.
        """
        count = self._workers.count
        self._ever_held_one |= waiting < count
        if not waiting:
            self._since, self._is_told = None, False
            return None
        self._since = self._since or time.monotonic()
        waited = time.monotonic() - self._since
        if self._is_told and (self._ever_held_one or waited < GIVE_UP_AFTER):
            return None
        if waited < TELL_AFTER:
            return None
        nodes, free = cluster()
        fit = room(nodes, self._workers)
        if fit >= count and waited < BUSY_AFTER:
            return None
        has = {kind: sum(node.get(kind, 0.0) for node in nodes) for kind in _KINDS}
        told = (
            f"each needs {_named(_needed(self._workers))}, and the Ray cluster at {self._where} "
            f"has {_named(has)} on {len(nodes)} node{'s' * (len(nodes) != 1)}, "
            f"of which {_named(free)} are free"
        )
        larger = "ask for less (workers.threads, workers.gpus), or add a node that is large enough"
        if self._is_told:
            if fit:
                return None
            raise ResumableError(f"workers: no node came that can hold one: {told}; {larger}")
        self._is_told = True
        if not fit:
            patience = f"waiting {GIVE_UP_AFTER / 60:g} minutes for a node that can"
            return f"workers: no node can hold one: {told}; {patience}; {larger}"
        goes_on = "the study goes on without them" if waiting < count else "the study waits"
        fewer = f"; ask for no more than {fit} (--workers {fit}), or add nodes" * (fit < count)
        return f"workers: {waiting} of {count} wait for a place: {told}; {goes_on}{fewer}"


def _needed(workers: WorkersConfig) -> Resources:
    return {"CPU": workers.threads, "GPU": workers.gpus}


def _named(resources: Resources) -> str:
    """CPUs and GPUs in words.

    >>> _named({"CPU": 1.0, "GPU": 0.5, "memory": 9.0})
    '1 CPU and 0.5 GPUs'
    """
    told = ((resources.get(kind, 0.0), kind) for kind in _KINDS)
    return " and ".join(f"{n:g} {kind}{'s' * (n != 1)}" for n, kind in told)
