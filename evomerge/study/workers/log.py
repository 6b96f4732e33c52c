"""Writes workers.log: the output of workers and their libraries, without secrets."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import IO

from evomerge.core.redact import redact

_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))


class WorkerLog:
    """A file that collects the stderr of several workers, line by line."""

    def __init__(self, file: Path):
        self._file = file.open("ab", buffering=0)
        self._lock = threading.Lock()

    def take(self, stream: IO[bytes]) -> WorkerStderr:
        """Copy a worker's stderr to the file until it ends, then close it."""
        return WorkerStderr(stream, self)

    def write(self, text: str) -> None:
        """Append a line; a full disk costs the line and nothing else."""
        with self._lock:
            try:
                self._file.write(text.encode("utf-8", "replace"))
            except (
                OSError,
                ValueError,
            ):  # ValueError: closed before late output
                return

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()


class WorkerStderr:
    """A worker's stderr, which a thread copies to the log."""

    def __init__(self, stream: IO[bytes], log: WorkerLog):
        self._last_line = ""
        self._thread = threading.Thread(target=self._copy, args=(stream, log), daemon=True)
        self._thread.start()

    def last_line(self) -> str:
        """Return the last line that is not blank, e.g. of a traceback; call it after the end."""
        self._thread.join(timeout=1)  # a grandchild may hold the pipe open
        return self._last_line[:300]

    def _copy(self, stream: IO[bytes], log: WorkerLog) -> None:
        with stream:
            for line in stream:
                text = redact(line.decode("utf-8", "replace"))
                self._last_line = text.strip() or self._last_line
                log.write(text)


def out_of_memory_kills() -> int:
    """Count the processes of this Linux control group that were killed for lack of memory."""
    for counter in _COUNTERS:
        try:
            match = re.search(r"^oom_kill (\d+)$", counter.read_text(), re.MULTILINE)
        except OSError:
            continue
        if match:
            return int(match[1])
    return 0
