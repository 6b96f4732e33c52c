"""Runs training processes: started when needed, reused, and ended if anything goes wrong.

A child is ``python -m evomerge.demo.train``, not a fork: it inherits no threads, never imports the
caller's ``__main__``, and reads one job a line. Reusing it saves seconds of imports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from evomerge.demo import settings

_THREAD_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Step:
    """The progress of a model's training.

    `loss` is None in two cases: before the first step, and when a finished model is reused (then
    `done` is `steps`).
    """

    model: str
    done: int
    steps: int
    loss: float | None


@dataclass(frozen=True)
class _Child:
    process: subprocess.Popen[str]
    errors: IO[str]  # what it wrote to stderr


class Children:
    """The training processes of one zoo, as many as threads call `train` at once."""

    def __init__(self, progress: Callable[[Step], None] | None) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._all: list[_Child] = []
        self._idle: list[_Child] = []
        self._stopped = False

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for child in self._all:  # by now nobody reads from them
            for stream in (child.process.stdin, child.process.stdout, child.errors):
                assert stream is not None
                with suppress(BrokenPipeError):  # a job that a dead process never took
                    stream.close()

    def report(self, step: Step) -> None:
        """Report a step, one at a time."""
        if self._progress is not None:
            with self._lock:
                self._progress(step)

    def train(self, model: str, job: Mapping[str, object]) -> None:
        """Run one job to its end; see `evomerge.demo.train` for what a job is.

        Raises:
            RuntimeError: The process failed; the message ends with the end of its stderr.
        """
        child = self._take()
        assert child.process.stdin is not None
        assert child.process.stdout is not None
        try:
            child.process.stdin.write(json.dumps(job) + "\n")
            child.process.stdin.flush()
        except BrokenPipeError:
            raise _failure(model, child) from None
        for line in child.process.stdout:
            message = json.loads(line)
            if "saved" in message:
                break
            self.report(Step(model, message["step"], message["steps"], message["loss"]))
        else:
            raise _failure(model, child)
        with self._lock:
            self._idle.append(child)

    def wait(self, jobs: Sequence[Future[None]]) -> None:
        """Wait for jobs that call `train`; the first failure ends the others and is raised."""
        try:
            wait(jobs, return_when=FIRST_EXCEPTION)
            for job in jobs:
                if job.done():
                    job.result()
        except BaseException:  # an interrupt too
            for job in jobs:
                job.cancel()
            self.stop()
            raise

    def stop(self) -> None:
        """End every process and start no more."""
        with self._lock:
            self._stopped = True
            children = list(self._all)
        for child in children:
            child.process.terminate()
        for child in children:
            child.process.wait()

    def _take(self) -> _Child:
        with self._lock:
            if self._stopped:
                raise RuntimeError("training was stopped")
            if self._idle:
                return self._idle.pop()
            child = _start()
            self._all.append(child)
            return child


def _start() -> _Child:
    home = Path(settings.__file__).parents[2]
    paths = [str(home), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        **dict.fromkeys(_THREAD_COUNTS, "1"),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
    process = subprocess.Popen(
        # -P: whatever lies in the working directory is not to be imported
        [sys.executable, "-P", "-m", "evomerge.demo.train"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=environment,
        text=True,
        encoding="utf-8",
    )
    return _Child(process, errors)


def _failure(model: str, child: _Child) -> RuntimeError:
    code = child.process.wait()
    child.errors.seek(0)
    tail = child.errors.read()[-2000:].strip()
    return RuntimeError(f"training {model} failed with exit status {code}: {tail}")
