"""Workers that are Ray actors. The only door to ray."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from evomerge.core import faults
from evomerge.core.errors import UserError
from evomerge.core.redact import redact
from evomerge.study.config import StudyConfig
from evomerge.study.workers.pool import ENVIRONMENT, Message, Pool, Reply
from evomerge.study.workers.ray_capacity import Room
from evomerge.study.workers.ray_cluster import Head, check_reachable

_LOOPBACK = ("127.0.0.1", "::1")


class RayPool(Pool):
    """Ray actors, on this machine or on a cluster that `ray_address` names.

    The same requests and answers as a child's, as JSON text. Actors are not restarted by Ray: a
    lost one is replaced from here, so that what happened to a request is known.
    """

    words = "Ray's logs of the session (/tmp/ray/session_latest/logs on each node)"

    def __init__(self, config: StudyConfig):
        super().__init__(config)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        self._ray = ray
        self._mine = not ray.is_initialized()
        if self._mine:
            with _own_sigterm():
                _start_ray(ray, config)
        self._head = Head(_gcs_address(ray))
        self._room = Room(config.workers, config.workers.ray_address or "this program's address")
        self._placing: dict[int, Any] = {}  # worker -> the first call to it, until it answers
        self._actors = [self._spawn(worker) for worker in range(self.size)]
        self._running: dict[Any, int] = {}

    def submit(self, worker: int, request: Message) -> None:
        """Call the actor."""
        faults.reach("pool.submit")
        reference = self._actors[worker].handle.remote(json.dumps(request))
        self._running[reference] = worker

    def poll(self, timeout: float) -> list[Reply]:
        """Wait for the calls that are under way, or for workers' places where there are none."""
        self._look_for_places(timeout if not self._running else 0.0)
        if not self._running:
            return []
        waiting = list(self._running)
        ready, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0)
        if not ready:
            ready, _ = self._ray.wait(waiting, num_returns=1, timeout=timeout)
        self._head.check()  # answers of other nodes come even without it, until Ray gives up
        replies = []
        for reference in ready:
            worker = self._running.pop(reference)
            try:
                replies.append(Reply(worker, json.loads(self._ray.get(reference))))
            except self._ray.exceptions.RayError as error:
                replies.append(Reply(worker, None, *_told_by_ray(error)))
        faults.reach("pool.reply")
        return replies

    def restart(self, worker: int) -> None:
        """Kill the actor and make another; nothing where the whole cluster is lost."""
        if self._head.is_lost:
            return
        self._head.wait()  # without it Ray would wait, and end this process
        self._running = {r: w for r, w in self._running.items() if w != worker}
        self._ray.kill(self._actors[worker])
        self._actors[worker] = self._spawn(worker)

    def is_up(self, worker: int) -> bool:
        """Return whether the actor has found a place on the cluster."""
        return worker not in self._placing

    def close(self) -> None:
        """Kill the actors, and Ray itself if it was started from here."""
        faults.reach("pool.close")
        if not self._head.is_lost:
            for actor in self._actors:
                self._ray.kill(actor)
        if self._mine:
            self._ray.shutdown()

    @property
    def process_ids(self) -> list[int]:
        """The actors' process numbers, each on its own node."""
        ids: list[int] = self._ray.get([actor.process_id.remote() for actor in self._actors])
        return ids

    def _look_for_places(self, timeout: float) -> None:
        """See which actors have been placed; say so if some wait for long."""
        if self._placing:
            waiting = list(self._placing.values())
            placed, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0)
            if not placed:
                placed, _ = self._ray.wait(waiting, num_returns=1, timeout=timeout)
            self._placing = {w: r for w, r in self._placing.items() if r not in placed}
        if (told := self._room.look(len(self._placing), self._resources)) is not None:
            self.notice(told)

    def _resources(self) -> tuple[list[dict[str, float]], dict[str, float]]:
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return nodes, self._ray.available_resources()

    def _spawn(self, worker: int) -> Any:
        faults.reach("pool.spawn")
        workers = self.config.workers
        variables = {**ENVIRONMENT, "OMP_NUM_THREADS": str(workers.threads)}
        made = self._ray.remote(_Actor).options(
            num_cpus=workers.threads,
            num_gpus=workers.gpus,
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": variables},
        )
        try:
            actor = made.remote(json.dumps(self.told))
        except (ImportError, AttributeError) as error:  # of a ray:// server, which reads our code
            raise UserError(
                f"workers: the Ray cluster at {workers.ray_address} cannot make one ({error}): "
                "install the same version of evomerge on all of its nodes"
            ) from None
        self._placing[worker] = actor.process_id.remote()
        actor.load.remote()
        return actor


class _Actor:
    """The Ray side of a worker: its methods run one after the other, in the order of the calls."""

    def __init__(self, config: str):
        self._config = config
        self._made: Any = None

    def load(self) -> None:
        from evomerge.study.workers.evaluator import start

        self._made = start(json.loads(self._config))

    def handle(self, request: str) -> str:
        from evomerge.study.workers.evaluator import Evaluator

        made = self._made
        return json.dumps(made.handle(json.loads(request)) if isinstance(made, Evaluator) else made)

    def process_id(self) -> int:
        return os.getpid()


def _told_by_ray(error: Exception) -> tuple[str, str]:
    """Why a call was lost, in one line, and of what kind that is."""
    name = type(error).__name__
    lines = str(error).strip().splitlines() or ["no reason given"]
    return redact(f"{name}: {lines[0]}"), "oom" if name == "OutOfMemoryError" else "infrastructure"


def _start_ray(ray: Any, config: StudyConfig) -> None:
    """Join the cluster that is named, or start one on this machine, bound to loopback."""
    workers = config.workers
    if workers.ray_address is not None:
        check_reachable(workers.ray_address)
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if workers.ray_address is not None:
            ray.init(address=workers.ray_address, **quiet)
            return
        with _on_loopback():
            ray.init(
                address="local",
                num_cpus=max(workers.count * workers.threads, os.cpu_count() or 1),
                include_dashboard=False,
                dashboard_host="127.0.0.1",
                _node_ip_address="127.0.0.1",
                **quiet,
            )
        own = ray.util.get_node_ip_address()
        if own not in _LOOPBACK:
            ray.shutdown()
            raise UserError(
                f"workers: this version of Ray ({ray.__version__}) listens on {own}, not on "
                "loopback alone; use `workers: {backend: local}`, or start Ray yourself and name "
                "it with --ray-address"
            )
        found, wanted = ray.cluster_resources().get("GPU", 0), workers.count * workers.gpus
        if found < wanted:  # actors would wait for ever
            ray.shutdown()
            raise UserError(
                f"workers: {workers.count} of {workers.gpus:g} GPUs each need {wanted:g}, but Ray "
                f"finds {found:g} on this machine"
            )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        here = "this machine"
        where = workers.ray_address or here
        reason = str(error).strip().splitlines()[0]
        hint = "; a cluster that wants a token needs RAY_AUTH_MODE=token" * (where != here)
        raise UserError(f"workers: cannot use Ray at {where}: {reason}{hint}") from None


def _gcs_address(ray: Any) -> str | None:
    """Return the address of the cluster's head; ``None`` where only a proxy of it is known."""
    try:
        return str(ray.get_runtime_context().gcs_address)
    except Exception:  # Ray's client has no such thing, and says so in its own way
        return None


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Have Ray start as where no other machine can join: all of its ports on loopback.

    Its processes read that from the environment. In this one it was read when Ray was imported,
    perhaps by somebody else, and `_node_ip_address` alone is turned into an outward address.
    """
    from ray._private import ray_constants

    name, cluster = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", ray_constants.ENABLE_RAY_CLUSTER
    told = os.environ.get(name)
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = cluster
        del os.environ[name]
        if told is not None:
            os.environ[name] = told


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep what SIGTERM does: Ray makes it end the process at once, and nothing would be closed."""
    held = signal.getsignal(signal.SIGTERM)
    yield
    if held is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, held)
