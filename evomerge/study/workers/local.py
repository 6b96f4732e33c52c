"""Runs workers as child processes."""

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
from collections.abc import Iterator
from pathlib import Path

from evomerge.core import faults
from evomerge.core.errors import UserError
from evomerge.study.config import StudyConfig, WorkersConfig
from evomerge.study.workers.answers.codec import read_answer, write_request
from evomerge.study.workers.log import WorkerLog, WorkerStderr, out_of_memory_kills
from evomerge.study.workers.pool import ENVIRONMENT, Pool, Reply
from evomerge.study.workers.requests import Document, Request

CLOSING_SECONDS = 2.0  # that closing waits for the threads that listen to children, at most
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_NVIDIA_SMI_SECONDS = 20.0  # a driver that has to wake up takes seconds


class LocalPool(Pool):
    """Child processes of this one, reached through pipes; no port is opened."""

    def __init__(self, config: StudyConfig, log: Path):
        super().__init__(config)
        self._gpus = visible_gpus() if config.workers.device in ("auto", "cuda") else []
        if config.workers.count == "all":
            self.size = places(config.workers, len(self._gpus))
        self._replies: queue.Queue[tuple[int, subprocess.Popen[bytes], Reply]] = queue.Queue()
        self._log = WorkerLog(log)
        self._listeners: list[threading.Thread] = []
        self._children = [self._spawn(worker) for worker in range(self.size)]

    def submit(self, worker: int, request: Request) -> None:
        """Write the request to the child's stdin."""
        faults.reach("pool.submit")
        _send(self._children[worker], write_request(request))

    def poll(self, timeout: float) -> list[Reply]:
        """Return the replies that the children's listeners have put in the queue."""
        try:
            entries = [self._replies.get(timeout=timeout)]
            while not self._replies.empty():
                entries.append(self._replies.get_nowait())
        except queue.Empty:
            return []
        replies = [
            reply
            for worker, child, reply in entries
            if child is self._children[worker]  # not a late reply of one that was replaced
        ]
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
                [sys.executable, "-m", "evomerge.study.workers.child", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": threads, **self._gpu(worker)},
                # The new process must find this very package, installed or not.
                cwd=Path(__file__).parents[3],
            )
        except OSError as error:
            raise UserError(
                f"workers: cannot start another process: {error.strerror}; finished work is "
                "kept: free memory or processes, then run the same command again to resume"
            ) from None
        _send(child, self.start_message)
        assert child.stderr is not None
        stderr = self._log.take(child.stderr)
        listener = threading.Thread(target=self._listen, args=(worker, child, stderr), daemon=True)
        listener.start()
        self._listeners = [thread for thread in self._listeners if thread.is_alive()] + [listener]
        return child

    def device(self, worker: int) -> str:
        """Name the GPUs that the worker was given, or else the worker itself."""
        return self._gpu(worker).get(_VISIBLE, super().device(worker))

    def _gpu(self, worker: int) -> dict[str, str]:
        """Assign each worker its share of the visible GPUs in turn, by an environment variable."""
        count = max(1, int(self.config.workers.gpus))
        if len(self._gpus) < max(2, count):
            return {}  # where one worker needs more, that worker reports it
        assigned = [self._gpus[(worker * count + i) % len(self._gpus)] for i in range(count)]
        return {_VISIBLE: ",".join(assigned)}

    def _listen(self, worker: int, child: subprocess.Popen[bytes], stderr: WorkerStderr) -> None:
        killed_before = out_of_memory_kills()
        for line in _lines(child):
            if line.endswith(b"\n"):  # else the worker died in the middle of it
                self._replies.put((worker, child, Reply(worker, read_answer(json.loads(line)))))
        code = child.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        last_line = stderr.last_line()
        kind = "infrastructure"
        if code == -signal.SIGKILL and out_of_memory_kills() > killed_before:
            kind, how = "oom", f"{how}: the machine ran out of memory"
        elif code > 0 and last_line:
            how += f": {last_line}"
        self._replies.put(
            (worker, child, Reply(worker, None, f"the worker ended with {how}", kind))
        )


def _send(child: subprocess.Popen[bytes], message: Document) -> None:
    """Write one line to a child; `_listen` reports a child that is gone."""
    assert child.stdin is not None
    try:
        child.stdin.write(json.dumps(message).encode() + b"\n")
        child.stdin.flush()
    except (BrokenPipeError, OSError):
        return


def _lines(child: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """Yield a child's answers, until it ends or is ended."""
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


def places(workers: WorkersConfig, gpus: int) -> int:
    """Count the workers that this machine has room for, at least 1: by GPUs if it has any.

    >>> places(WorkersConfig(count="all", gpus=0.5), gpus=4)
    8
    """
    if gpus:
        return max(1, int(gpus / (workers.gpus or 1) + 1e-9))
    return max(1, len(os.sched_getaffinity(0)) // workers.threads)


def visible_gpus() -> list[str]:
    """List the GPUs that workers may use, without torch, whose import takes seconds.

    Returns:
        The entries of `CUDA_VISIBLE_DEVICES` if it is set; else the identifiers that
        ``nvidia-smi`` prints, or none if there is no such program or it fails.
    """
    listed = os.environ.get(_VISIBLE)
    if listed is None:
        command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        try:
            listed = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=_NVIDIA_SMI_SECONDS,
                check=True,
                errors="replace",
            ).stdout.replace("\n", ",")
        except (OSError, subprocess.SubprocessError):
            return []
    return [name.strip() for name in listed.split(",") if name.strip()]
