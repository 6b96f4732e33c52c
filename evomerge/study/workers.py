"""Where the work runs: local child processes, or Ray actors. The only door to ray."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge import faults
from evomerge.errors import UserError
from evomerge.redact import redact
from evomerge.study.cluster_head import Head, check_reachable
from evomerge.study.config import StudyConfig
from evomerge.study.versions import versions
from evomerge.study.worker_log import Words, WorkerLog, out_of_memory_kills

Message = dict[str, Any]

_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "LMEVAL_LOG_LEVEL": "ERROR",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
}
CLOSING_SECONDS = 2.0  # that closing waits for the threads that listen to children, at most


@dataclass(frozen=True)
class Reply:
    """What came back from a worker: an answer, or word that the worker is gone, and why.

    The `kind` of a loss is ``infrastructure``, or ``oom`` where the system ended the worker because
    memory ran out.
    """

    worker: int
    answer: Message | None
    lost: str | None = None
    kind: str = "infrastructure"


class Pool(ABC):
    """Workers numbered 0 to size - 1; each serves one request at a time."""

    def __init__(self, config: StudyConfig):
        self.config = config
        self.size = config.workers.count

    @abstractmethod
    def submit(self, worker: int, request: Message) -> None:
        """Send a request to an idle worker."""

    @abstractmethod
    def poll(self, timeout: float) -> list[Reply]:
        """Wait at most `timeout` seconds for replies, and return all that are there."""

    @abstractmethod
    def restart(self, worker: int) -> None:
        """End a worker, whatever it is doing, and put a new one in its place."""

    @abstractmethod
    def close(self) -> None:
        """End all workers."""

    def device(self, worker: int) -> str:
        """What a worker computes on, as far as this pool can tell it from other workers'."""
        return f"worker {worker}"

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LocalPool(Pool):
    """Child processes of this one, reached through pipes; no port is opened."""

    def __init__(self, config: StudyConfig, log: Path):
        super().__init__(config)
        self._replies: queue.Queue[tuple[int, subprocess.Popen[bytes], Reply]] = queue.Queue()
        self._log = WorkerLog(log)
        self._listeners: list[threading.Thread] = []
        self._children = [self._spawn(worker) for worker in range(self.size)]

    def submit(self, worker: int, request: Message) -> None:
        """Write the request to the child's stdin."""
        faults.reach("pool.submit")
        _send(self._children[worker], request)

    def poll(self, timeout: float) -> list[Reply]:
        """Take what the children's listeners put in the queue."""
        replies = []
        try:
            entries = [self._replies.get(timeout=timeout)]
            while not self._replies.empty():
                entries.append(self._replies.get_nowait())
        except queue.Empty:
            return []
        for worker, child, reply in entries:
            if child is self._children[worker]:  # not the last word of one that was replaced
                replies.append(reply)
        faults.reach("pool.reply")
        return replies

    def restart(self, worker: int) -> None:
        """Kill the child and start another."""
        _end(self._children[worker])
        self._children[worker] = self._spawn(worker)

    def close(self) -> None:
        """Kill the children."""
        faults.reach("pool.close")
        for child in self._children:
            _end(child)
        deadline = time.monotonic() + CLOSING_SECONDS
        for listener in self._listeners:  # they see the end of their child, and close its pipes
            listener.join(max(0.0, deadline - time.monotonic()))
        self._log.close()

    @property
    def process_ids(self) -> list[int]:
        """The children's process numbers."""
        return [child.pid for child in self._children]

    def _spawn(self, worker: int) -> subprocess.Popen[bytes]:
        faults.reach("pool.spawn")
        threads = str(self.config.workers.threads)
        try:
            child = subprocess.Popen(
                [sys.executable, "-m", "evomerge.study.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **_ENVIRONMENT, "OMP_NUM_THREADS": threads, **self._gpu(worker)},
                # The new process must find this very package, installed or not.
                cwd=Path(__file__).parents[2],
            )
        except OSError as error:
            raise UserError(
                f"workers: cannot start another process: {error.strerror}; what was finished is "
                "kept, and the same command resumes"
            ) from None
        _send(child, {**self.config.to_dict(), "versions": versions()})
        assert child.stderr is not None
        words = self._log.take(child.stderr)
        listener = threading.Thread(target=self._listen, args=(worker, child, words), daemon=True)
        listener.start()
        self._listeners = [thread for thread in self._listeners if thread.is_alive()] + [listener]
        return child

    def device(self, worker: int) -> str:
        """The GPU that the worker was given, or the worker itself."""
        return self._gpu(worker).get("CUDA_VISIBLE_DEVICES", super().device(worker))

    def _gpu(self, worker: int) -> dict[str, str]:
        """One of the visible GPUs for each worker, in turn; or as many as it is to have."""
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is None or "," not in visible:
            return {}
        listed, count = visible.split(","), max(1, int(self.config.workers.gpus))
        if count > len(listed):
            return {}  # the worker says so
        own = [listed[(worker * count + i) % len(listed)] for i in range(count)]
        return {"CUDA_VISIBLE_DEVICES": ",".join(own)}

    def _listen(self, worker: int, child: subprocess.Popen[bytes], words: Words) -> None:
        killed_before = out_of_memory_kills()
        for line in _lines(child):
            if line.endswith(b"\n"):  # else the worker died in the middle of it
                self._replies.put((worker, child, Reply(worker, json.loads(line))))
        code = child.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        last = words.last()
        kind = "infrastructure"
        if code == -signal.SIGKILL and out_of_memory_kills() > killed_before:
            kind, how = "oom", f"{how}: the machine ran out of memory"
        elif code > 0 and last:
            how += f": {last}"
        self._replies.put(
            (worker, child, Reply(worker, None, f"the worker ended with {how}", kind))
        )


class RayPool(Pool):
    """Ray actors, on this machine or on a cluster that `ray_address` names.

    The same requests and answers as a child's, as JSON text. Actors are not restarted by Ray: a
    lost one is replaced from here, so that what happened to a request is known.
    """

    def __init__(self, config: StudyConfig):
        super().__init__(config)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if config.workers.ray_address is None:  # no other machine joins: all ports on loopback
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        import ray

        self._ray = ray
        self._mine = not ray.is_initialized()
        if self._mine:
            with _own_sigterm():
                _start_ray(ray, config)
        self._head = Head(_gcs_address(ray))
        self._actors = [self._spawn() for _ in range(self.size)]
        self._running: dict[Any, int] = {}

    def submit(self, worker: int, request: Message) -> None:
        """Call the actor."""
        faults.reach("pool.submit")
        reference = self._actors[worker].handle.remote(json.dumps(request))
        self._running[reference] = worker

    def poll(self, timeout: float) -> list[Reply]:
        """Wait for the calls that are under way."""
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
        self._actors[worker] = self._spawn()

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

    def _spawn(self) -> Any:
        faults.reach("pool.spawn")
        workers = self.config.workers
        variables = {**_ENVIRONMENT, "OMP_NUM_THREADS": str(workers.threads)}
        actor = self._ray.remote(_Actor).options(
            num_cpus=workers.threads,
            num_gpus=workers.gpus,
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": variables},
        )
        return actor.remote(json.dumps({**self.config.to_dict(), "versions": versions()}))


class _Actor:
    """The Ray side of a worker."""

    def __init__(self, config: str):
        from evomerge.study.evaluator import start

        self._made = start(json.loads(config))

    def handle(self, request: str) -> str:
        from evomerge.study.evaluator import Evaluator

        made = self._made
        return json.dumps(made.handle(json.loads(request)) if isinstance(made, Evaluator) else made)

    def process_id(self) -> int:
        return os.getpid()


def _told_by_ray(error: Exception) -> tuple[str, str]:
    """Why a call was lost, in one line, and of what kind that is."""
    name = type(error).__name__
    lines = str(error).strip().splitlines() or ["no reason given"]
    return redact(f"{name}: {lines[0]}"), "oom" if name == "OutOfMemoryError" else "infrastructure"


def open_pool(config: StudyConfig, log: Path) -> Pool:
    """The pool that the study's `workers` ask for."""
    return RayPool(config) if config.workers.backend == "ray" else LocalPool(config, log)


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
        ray.init(
            address="local",
            num_cpus=max(workers.count * workers.threads, os.cpu_count() or 1),
            include_dashboard=False,
            dashboard_host="127.0.0.1",
            _node_ip_address="127.0.0.1",
            **quiet,
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
    """Where the cluster's head listens; ``None`` where only a proxy of it is known."""
    try:
        return str(ray.get_runtime_context().gcs_address)
    except Exception:  # Ray's client has no such thing, and says so in its own way
        return None


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep what SIGTERM does: Ray makes it end the process at once, and nothing would be closed."""
    held = signal.getsignal(signal.SIGTERM)
    yield
    if held is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, held)


def _send(child: subprocess.Popen[bytes], message: Message) -> None:
    """Write one line to a child; a child that is gone says so by itself, through `_listen`."""
    assert child.stdin is not None
    try:
        child.stdin.write(json.dumps(message).encode() + b"\n")
        child.stdin.flush()
    except (BrokenPipeError, OSError):
        return


def _lines(child: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """What a child answers, until it ends or is ended."""
    assert child.stdout is not None
    with contextlib.suppress(ValueError):  # closed by `_end`
        yield from child.stdout


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout):  # the log closes stderr
        if stream is not None:
            for _ in range(50):  # the listening thread may be reading the last of it
                try:
                    stream.close()
                    break
                except (OSError, ValueError):
                    time.sleep(0.01)
