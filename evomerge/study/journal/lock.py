"""Locks the journal for one writer, with a note beside the file that says who it is.

``flock`` decides: the kernel frees it when its holder dies, however that happens, so a stale note
blocks nobody and a stopped holder keeps its lock. Only where the file system has no ``flock`` does
the note itself decide, with a warning.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

from evomerge.core.errors import UserError

_PATIENCE = 10.0  # seconds that the lock of a dead holder is waited for
_NO_FLOCK = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


@dataclass(frozen=True)
class Holder:
    """The process that writes: its id, its machine, and when it began (seconds since 1970)."""

    pid: int
    host: str
    start: float


def take_lock(fd: int, path: Path, note: Path) -> Holder:
    """Make this process the one writer of the open file `fd`; closing `fd` gives that up.

    Args:
        fd: The open journal. A child that is forked (not spawned) would share its lock.
        path: The journal's name, for messages.
        note: The file that names the holder; the holder deletes it when it is done.

    Raises:
        UserError: Another process is the writer.
    """
    import fcntl  # POSIX only; reading a journal elsewhere must not need it

    me = Holder(os.getpid(), socket.gethostname(), time.time())
    deadline = time.monotonic() + _PATIENCE
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # A process that was killed while it started a child leaves its lock to that child,
                # until that runs its program or ends.
                other = _read(note)
                if other is None or not _is_dead(other) or time.monotonic() > deadline:
                    raise UserError(f"{_in_use(path, note)}: wait for it or stop it") from None
                time.sleep(0.02)
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
        _take_note(path, note, me)
        return me
    with contextlib.suppress(
        OSError
    ):  # the note only informs; a full disk is the journal's to report
        _write(note, me, os.O_TRUNC)
    return me


def writer(journal: Path) -> Holder | None:
    """Return the process that is writing a journal, as its note says; ``None`` if there is none.

    A process that was killed leaves its note, but is known to be gone on its own machine; on
    another machine the note is believed.
    """
    holder = _read(journal.with_suffix(".lock"))
    return None if holder is None or _is_dead(holder) else holder


def _take_note(path: Path, note: Path, me: Holder) -> None:
    """Create the note, which makes this process the writer where there is no flock."""
    warnings.warn(
        f"the file system of {path} has no file locks: relying on {note} alone, so start no second "
        "evomerge on this run from another machine",
        RuntimeWarning,
        stacklevel=4,
    )
    other = _read(note)
    if other is not None and _is_dead(other):
        note.unlink(missing_ok=True)
    try:
        _write(note, me, os.O_EXCL)
    except FileExistsError:
        raise UserError(f"{_in_use(path, note)}: stop it, or if it is gone delete {note}") from None


def _write(note: Path, holder: Holder, flag: int) -> None:
    fd = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flag, 0o600)
    with open(fd, "w", encoding="ascii") as file:
        json.dump(asdict(holder), file)


def _read(note: Path) -> Holder | None:
    try:
        said = json.loads(note.read_text(encoding="ascii"))
        return Holder(int(said["pid"]), str(said["host"]), float(said["start"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _in_use(path: Path, note: Path) -> str:
    holder = _read(note)
    if holder is None:
        return f"{path} is in use by another process"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.start))
    return f"{path} is in use by process {holder.pid} on {holder.host} since {since}"


def _is_dead(holder: Holder) -> bool:
    """Return whether the holder is known to be gone; only its own machine can tell."""
    if holder.host != socket.gethostname() or holder.pid <= 0:
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it lives, as another user
        return False
    return _is_zombie(holder.pid)


def _is_zombie(process: int) -> bool:
    """Return whether a process has ended and waits for its parent to notice (Linux)."""
    with contextlib.suppress(OSError, IndexError):
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "Z"
    return False
