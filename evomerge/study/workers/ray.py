"""Runs workers as Ray actors; no other module imports ray."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from evomerge.core import faults
from evomerge.core.errors import UserError
from evomerge.core.redact import redact
from evomerge.study.config import StudyConfig
from evomerge.study.workers.answers.codec import (
    read_answer,
    read_request,
    write_answer,
    write_request,
)
from evomerge.study.workers.pool import ENVIRONMENT, Pool, Reply
from evomerge.study.workers.ray_cluster import (
    ClusterCapacity,
    ClusterHead,
    capacity,
    check_reachable,
)
from evomerge.study.workers.requests import Request

COUNT_SECONDS = 5.0  # between two counts of a cluster's nodes, if all are to be used
_LOOPBACK = ("127.0.0.1", "::1")


class RayPool(Pool):
    """Ray actors, on this machine or on a cluster that `ray_address` names.

    Requests and answers are the same JSON as a child's. Ray does not restart actors: this class
    replaces a lost one, so that the fate of each request is known.
    """

    output_location = "Ray's logs of the session (/tmp/ray/session_latest/logs on each node)"

    def __init__(self, config: StudyConfig):
        super().__init__(config)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        self._ray = ray
        self._started_here = not ray.is_initialized()
        if self._started_here:
            with _sigterm_unchanged():
                _start_ray(ray, config)
        self._head = ClusterHead(_gcs_address(ray))
        where = config.workers.ray_address or "this program's address"
        self._capacity = ClusterCapacity(config.workers, where)
        self._starting: dict[int, Any] = {}  # worker -> the first call to it, until it answers
        self._counted = -math.inf  # when nodes were counted last
        self._actors: list[Any] = []
        self._running: dict[Any, int] = {}
        self._join()

    def submit(self, worker: int, request: Request) -> None:
        """Call the actor."""
        faults.reach("pool.submit")
        reference = self._actors[worker].handle.remote(json.dumps(write_request(request)))
        self._running[reference] = worker

    def poll(self, timeout: float) -> list[Reply]:
        """Wait for calls under way; where there are none, for workers to start."""
        self._join()
        self._see_who_started(timeout if not self._running else 0.0)
        if not self._running:
            return []
        waiting = list(self._running)
        ready, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0)
        if not ready:
            ready, _ = self._ray.wait(waiting, num_returns=1, timeout=timeout)
        self._head.check()  # other nodes answer even without it, until Ray gives up
        replies = []
        for reference in ready:
            worker = self._running.pop(reference)
            try:
                replies.append(Reply(worker, read_answer(json.loads(self._ray.get(reference)))))
            except self._ray.exceptions.RayError as error:
                replies.append(Reply(worker, None, *_loss(error)))
        faults.reach("pool.reply")
        return replies

    def restart(self, worker: int) -> None:
        """Kill the actor and start another; do nothing if the whole cluster is lost."""
        if self._head.is_lost:
            return
        self._head.wait()  # without it Ray would wait, and end this process
        self._running = {r: w for r, w in self._running.items() if w != worker}
        self._ray.kill(self._actors[worker])
        self._actors[worker] = self._spawn(worker)

    def is_up(self, worker: int) -> bool:
        """Return whether Ray has scheduled and started the actor."""
        return worker not in self._starting

    def close(self) -> None:
        """Kill the actors, and Ray itself if it was started from here."""
        faults.reach("pool.close")
        if not self._head.is_lost:
            for actor in self._actors:
                self._ray.kill(actor)
        if self._started_here:
            self._ray.shutdown()

    @property
    def process_ids(self) -> list[int]:
        """The actors' process numbers, each on its own node."""
        ids: list[int] = self._ray.get([actor.process_id.remote() for actor in self._actors])
        return ids

    def _join(self) -> None:
        """Start the workers that are asked for; if all, one for each place of nodes that joined.

        Those of nodes that left wait for a place, without a worker more being started for it.
        """
        workers, now = self.config.workers, time.monotonic()
        if workers.count == "all" and now - self._counted > COUNT_SECONDS:
            self._counted = now
            self.size = max(self.size, capacity(self._resources()[0], workers))
        self._actors += [self._spawn(worker) for worker in range(len(self._actors), self.size)]

    def _see_who_started(self, timeout: float) -> None:
        """See which actors have started; notify the user if some wait for long."""
        if self._starting:
            waiting = list(self._starting.values())
            started, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0)
            if not started:
                started, _ = self._ray.wait(waiting, num_returns=1, timeout=timeout)
            self._starting = {w: r for w, r in self._starting.items() if r not in started}
        count = self.size if self.config.workers.count == "all" else None
        warning = self._capacity.check(len(self._starting), self._resources, count)
        if warning is not None:
            self.notice(warning)

    def _resources(self) -> tuple[list[dict[str, float]], dict[str, float]]:
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return nodes, self._ray.available_resources()

    def _spawn(self, worker: int) -> Any:
        faults.reach("pool.spawn")
        workers = self.config.workers
        variables = {**ENVIRONMENT, "OMP_NUM_THREADS": str(workers.threads)}
        actor_class = self._ray.remote(_Actor).options(
            num_cpus=workers.threads,
            num_gpus=workers.gpus,
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": variables},
        )
        try:
            actor = actor_class.remote(json.dumps(self.start_message))
        except (ImportError, AttributeError) as error:  # of a ray:// server, which reads our code
            raise UserError(
                f"workers: the Ray cluster at {workers.ray_address} cannot start one ({error}): "
                "install the same version of evomerge on all of its nodes"
            ) from None
        self._starting[worker] = actor.process_id.remote()
        actor.load.remote()
        return actor


class _Actor:
    """The Ray side of a worker; its methods run one at a time, in the order of the calls."""

    def __init__(self, config: str):
        self._config = config
        self._evaluator: Any = None

    def load(self) -> None:
        from evomerge.study.workers.start import start

        self._evaluator = start(json.loads(self._config))

    def handle(self, request: str) -> str:
        from evomerge.study.workers.evaluator import Evaluator

        answer = self._evaluator  # or the failure to make one
        if isinstance(answer, Evaluator):
            answer = answer.handle(read_request(json.loads(request)))
        return json.dumps(write_answer(answer))

    def process_id(self) -> int:
        return os.getpid()


def _loss(error: Exception) -> tuple[str, str]:
    """Return why a call was lost, in one line, and the kind of that failure."""
    name = type(error).__name__
    lines = str(error).strip().splitlines() or ["no reason given"]
    return redact(f"{name}: {lines[0]}"), "oom" if name == "OutOfMemoryError" else "infrastructure"


def _start_ray(ray: Any, config: StudyConfig) -> None:
    """Join the cluster at `ray_address`, or start one on this machine, bound to loopback."""
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
                num_cpus=max(workers.least * workers.threads, os.cpu_count() or 1),
                include_dashboard=False,
                dashboard_host="127.0.0.1",
                _node_ip_address="127.0.0.1",
                **quiet,
            )
        address = ray.util.get_node_ip_address()
        if address not in _LOOPBACK:
            ray.shutdown()
            raise UserError(
                f"workers: this version of Ray ({ray.__version__}) listens on {address}, not on "
                "loopback alone; use `workers: {backend: local}`, or start Ray yourself and name "
                "it with --ray-address"
            )
        seen, needed = ray.cluster_resources().get("GPU", 0), workers.least * workers.gpus
        if seen < needed:  # actors would wait for ever
            ray.shutdown()
            raise UserError(
                f"workers: {workers.least} of {workers.gpus:g} GPUs each need {needed:g}, but Ray "
                f"finds {seen:g} on this machine"
            )
    except UserError:
        raise
    except Exception as error:  # Ray and the system have a dozen kinds
        here = "this machine"
        where = workers.ray_address or here
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        hint = "; if the cluster requires a token, set RAY_AUTH_MODE=token" * (where != here)
        raise UserError(f"workers: cannot use Ray at {where}: {reason}{hint}") from None


def _gcs_address(ray: Any) -> str | None:
    """Return the address of the cluster's head; ``None`` where only a proxy of it is known."""
    try:
        return str(ray.get_runtime_context().gcs_address)
    except Exception:  # Ray's client has no address, and raises its own kind of error
        return None


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Have Ray open all of its ports on loopback, where no other machine can join.

    Its processes read that from the environment. In this one it was read when Ray was imported,
    perhaps by other code, and `_node_ip_address` alone is turned into an outward address.
    """
    from ray._private import ray_constants

    name, cluster = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", ray_constants.ENABLE_RAY_CLUSTER
    previous = os.environ.get(name)
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = cluster
        del os.environ[name]
        if previous is not None:
            os.environ[name] = previous


@contextlib.contextmanager
def _sigterm_unchanged() -> Iterator[None]:
    """Restore the handler of SIGTERM: Ray's ends the process at once, without closing anything."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
