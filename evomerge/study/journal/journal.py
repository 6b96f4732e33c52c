"""The journal is a study's append-only log of events, and the run itself.

Every event is one frame (see `frames`), written with one ``write`` and one ``fdatasync`` before
`Journal.append` returns: what was appended survives a kill at any later moment. Opening for writing
cuts off a tail that a crash left half-written.

There is one writer at a time (``flock``), and any number of readers, who take no lock.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from evomerge.core import faults
from evomerge.core.atomic import cause, sync
from evomerge.core.errors import UserError
from evomerge.study.journal.event_check import EventCheck
from evomerge.study.journal.frames import HEADER, Event, decode, encode, frames
from evomerge.study.journal.lock import Holder, take_lock

JOURNAL = "journal.log"  # its name in a run folder
# macOS has no fdatasync; there fsync is what there is.
sync_data = getattr(os, "fdatasync", os.fsync)


def read(path: Path | str) -> list[Event]:
    """Return all whole events of a journal, also while a study is writing it.

    Takes no lock, changes nothing and ignores a torn tail; the frames ``journal`` and ``opened``
    are among the events.

    Raises:
        UserError: There is no journal, it is damaged, or it is of a newer format.
    """
    return list(iterate(path))


def iterate(path: Path | str) -> Iterator[Event]:
    """Yield events as `read` does, one at a time: a long journal is never in memory as a whole."""
    for event in follow(path):
        if event is None:
            return
        yield event


def follow(path: Path | str) -> Iterator[Event | None]:
    """Yield events and wait for more: ``None`` says that nothing more is there yet.

    A reader that falls behind an opening that cut a torn tail off misses nothing, since only
    whole events are handed out.
    """
    path = Path(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(
            f"cannot read journal {path}: {error.strerror}; expected a study's run folder"
        ) from None
    with file:
        end, count, check = 0, 0, EventCheck()
        while True:
            file.seek(end)
            for until, event in frames(file, path, end, count, check):
                end, count = until, count + 1
                yield event
            yield None


class Journal:
    """A journal open for writing; `Journal.open` makes one, and `close` or ``with`` ends it.

    Attributes:
        path: The file.
        torn_bytes: How many bytes of a half-written tail were cut off at opening.
        token: This writer's fencing token, as in its ``opened`` event.
    """

    def __init__(self, path: Path, fd: int, lock: Path, token: str) -> None:
        self.path = path
        self.token = token
        self.torn_bytes = 0
        self._check = EventCheck()
        self._fd = fd
        self._lock = lock
        self._size = 0  # bytes that this writer knows to be whole frames

    @classmethod
    def open(
        cls, path: Path | str, *, create: bool, replay: Callable[[Event], object] | None = None
    ) -> Self:
        """Open `path` for appending, replay its events and record that it was opened.

        Args:
            path: The journal. Its neighbour with the suffix ``.lock`` says who holds it.
            create: Whether a missing journal is made (mode 0600) or is an error.
            replay: Called with every event that the file holds, in order, e.g. `Record.apply`.

        Raises:
            UserError: It is missing, damaged, of a newer format, or another process holds it.
        """
        path = Path(path)
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        try:
            fd = os.open(path, flags, 0o600)
        except FileNotFoundError:
            what = f"folder {path.parent}" if create else "such file: expected a study's run folder"
            raise UserError(f"cannot open journal {path}: there is no {what}") from None
        except OSError as error:
            raise UserError(f"cannot open journal {path}: {error.strerror}") from None
        journal = cls(path, fd, path.with_suffix(".lock"), secrets.token_hex(8))
        try:
            holder = take_lock(fd, path, journal._lock)
        except OSError as error:
            os.close(fd)
            raise UserError(
                f"cannot lock journal {path}: {error.strerror}: repair the file system, then "
                "run the same command again"
            ) from None
        except BaseException:
            os.close(fd)
            raise
        try:
            journal._recover(replay or (lambda _: None))
            journal._announce(holder)
        except OSError as error:
            journal.close()
            raise UserError(
                f"{error.strerror} while opening {path}: fix that, then run the same command again"
            ) from None
        except BaseException:
            journal.close()
            raise
        return journal

    def append(self, event: Event) -> None:
        """Write one event; when this returns, it is on the disk.

        Raises:
            UserError: The disk is full or failing, or another process wrote to the file. The file
                then ends with the last whole event, this journal is closed, and a new one resumes.
            ValueError: `event` has no name, holds NaN or infinity, or is none that a reader of the
                journal accepts; or the journal is closed.
        """
        frame = encode(event)
        if self._fd < 0:
            raise ValueError(f"the journal {self.path} is closed")
        self._check_unshared()
        wrong = self._check.fault(decode(frame))
        if wrong:  # our mistake; once written, the file could not be read
            raise ValueError(
                f"{self.path}: an event that could not be read back: {event['event']}{wrong}"
            )
        try:
            faults.reach("journal.write")
            written = os.write(self._fd, frame)
            if written < len(frame):  # a full disk takes what still fits, without an error
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            faults.reach("journal.sync")
            sync_data(self._fd)
            self._size += len(frame)
        except OSError as error:
            # After a failed sync nobody knows what the disk holds: never try that fd again.
            self._rewind()
            self.close()
            raise UserError(
                f"{cause(error)} while writing {len(frame)} bytes to {self.path}: nothing finished "
                "is lost; fix that, then run the same command again to resume"
            ) from None
        except BaseException:  # an interrupt between the two calls: the event was not acknowledged
            self._rewind()
            self._check = EventCheck()
            self._read(lambda _: None)
            raise

    def close(self) -> None:
        """Give up the lock and the file; closing twice is harmless."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # a note that stays blocks nobody
                self._lock.unlink(missing_ok=True)  # before the lock goes: others write their own
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _recover(self, replay: Callable[[Event], object]) -> None:
        """Read every whole frame, cut the torn tail off, and give an empty file its header."""
        self._read(replay)
        self.torn_bytes = os.fstat(self._fd).st_size - self._size
        if self.torn_bytes:
            faults.reach("journal.truncate")
            os.ftruncate(self._fd, self._size)
            os.fsync(self._fd)
        if not self._size:
            self.append(HEADER)
            sync(self.path.parent)

    def _read(self, replay: Callable[[Event], object]) -> None:
        with open(self._fd, "rb", closefd=False) as file:
            file.seek(0)
            for end, event in frames(file, self.path, check=self._check):
                replay(event)
                self._size = end

    def _announce(self, holder: Holder) -> None:
        event = {"event": "opened", "token": self.token, "pid": holder.pid, "host": holder.host}
        self.append({**event, "time": holder.start})

    def _check_unshared(self) -> None:
        status = os.fstat(self._fd)
        if status.st_size == self._size and status.st_nlink:
            return
        os.close(self._fd)  # and leave the lock's note: it may be the other process's by now
        self._fd = -1
        if not status.st_nlink:
            raise UserError(f"{self.path} was deleted or replaced while the study was writing it")
        raise UserError(
            f"{self.path} has {status.st_size} bytes where this process left {self._size}: another "
            "process wrote to it; stop that one, then run the same command again"
        )

    def _rewind(self) -> None:
        with contextlib.suppress(OSError):  # the next opening cuts the same tail off
            os.ftruncate(self._fd, self._size)
