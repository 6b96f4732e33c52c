"""workers.log: what workers and their libraries print, with secrets taken out."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import IO

from evomerge.core.redact import redact

_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))


class WorkerLog:
    """A file that takes in what comes out of several workers, line by line."""

    def __init__(self, file: Path):
        self._file = file.open("ab", buffering=0)
        self._lock = threading.Lock()

    def take(self, stream: IO[bytes]) -> Words:
        """Copy a worker's stderr from now to its end, which closes it."""
        return Words(stream, self)

    def write(self, text: str) -> None:
        """Append a line; a full disk costs the line and nothing else."""
        with self._lock:
            try:
                self._file.write(text.encode("utf-8", "replace"))
            except (OSError, ValueError):  # ValueError: closed, and a dead worker's words come late
                return

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()


class Words:
    """The output of one worker."""

    def __init__(self, stream: IO[bytes], log: WorkerLog):
        self._last = ""
        self._thread = threading.Thread(target=self._copy, args=(stream, log), daemon=True)
        self._thread.start()

    def last(self) -> str:
        """The last line that says something, e.g. the end of a traceback; after the end."""
        self._thread.join(timeout=1)  # a grandchild may hold the pipe open
        return self._last[:300]

    def _copy(self, stream: IO[bytes], log: WorkerLog) -> None:
        with stream:
            for line in stream:
                text = redact(line.decode("utf-8", "replace"))
                self._last = text.strip() or self._last
                log.write(text)


def out_of_memory_kills() -> int:
    """Count the processes of this control group that the kernel killed for lack of memory
    (Linux).
    """
    for counter in _COUNTERS:
        try:
            found = re.search(r"^oom_kill (\d+)$", counter.read_text(), re.MULTILINE)
        except OSError:
            continue
        if found:
            return int(found[1])
    return 0
