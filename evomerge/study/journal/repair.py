"""Mends a journal that damage in its middle made unreadable: keeps what comes before the damage.

A crash damages only a journal's end, and opening mends that. What is cut off here (a flipped bit, a
foreign hand) is kept in a file beside it. The study then pays again for what was cut off.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from evomerge.core.errors import UserError
from evomerge.study.journal.frames import frames
from evomerge.study.journal.journal import JOURNAL
from evomerge.study.journal.lock import take_lock


@dataclass(frozen=True)
class Repaired:
    """The result of a repair: events and bytes kept, bytes cut off, and their file."""

    events: int
    kept_bytes: int
    cut_bytes: int
    rest: Path | None


def repair(directory: Path, to: int | None = None) -> Repaired:
    """Cut a run's journal off at an offset, and keep the rest in ``journal.log.from-OFFSET``.

    Args:
        directory: The run folder; no study may be running in it.
        to: Where an event ends; ``None`` changes nothing, and only checks the journal.

    Raises:
        UserError: It is damaged and `to` is not given (the message holds the offset to give), `to`
            is not the end of a whole event, or a study is writing it.
    """
    path = directory / JOURNAL
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(f"cannot open journal {path}: {error.strerror}") from None
    note = path.with_suffix(".lock")
    try:
        take_lock(fd, path, note)
        try:
            return _cut(fd, path, to)
        finally:
            note.unlink(missing_ok=True)
    finally:
        os.close(fd)


def _cut(fd: int, path: Path, to: int | None) -> Repaired:
    size, ends = os.fstat(fd).st_size, [0]
    with open(fd, "rb", closefd=False) as file:
        try:
            for end, _ in frames(file, path):
                ends.append(end)
        except UserError:  # damage behind the events that were counted
            if to is None:
                raise
        if to is None:
            return Repaired(len(ends) - 1, ends[-1], 0, None)
        if to not in ends[1:]:
            near = max(end for end in ends if end <= max(to, 0))
            raise UserError(
                f"--to {to}: expected the end of a whole event of {path}; the last one before it "
                f"ends at {near}, the last readable one at {ends[-1]}"
            )
        file.seek(to)
        rest = None
        if size > to:
            rest = _put_aside(file.read(), path.with_name(f"{path.name}.from-{to}"))
    os.ftruncate(fd, to)
    os.fsync(fd)
    return Repaired(ends.index(to), to, size - to, rest)


def _put_aside(data: bytes, file: Path) -> Path:
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return file
