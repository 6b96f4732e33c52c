"""Copies a growing journal to a store whose objects cannot grow, and reads the copy back.

The journal is cut into pieces of at least `_PIECE` bytes, but for the last, which is written anew,
longer, under another name, as long as it is short. A piece's name says which bytes it holds.
"""

from __future__ import annotations

import re
from pathlib import Path

from evomerge.study.mirror.remote import Remote

_PIECE = 256 << 10
_NAME = re.compile(r"(\d{15})-(\d{15})")


class JournalCopy:
    """One writer's copy of one journal.

    Args:
        remote: The store.
        folder: Where the pieces are.
        journal: The local journal.

    Attributes:
        end: How many of its bytes the copy has.
    """

    def __init__(self, remote: Remote, folder: str, journal: Path) -> None:
        self._remote, self._folder, self._journal = remote, folder, journal
        self.end = 0
        self._start = 0  # of the last piece

    def waiting(self) -> int:
        """Count the bytes of whole events that the copy lacks; below 0 if the journal shrank."""
        try:
            size = self._journal.stat().st_size
        except OSError:
            return 0
        return size - self.end if size < self.end else self._whole(size) - self.end

    def update(self) -> None:
        """Copy what is new. Afterwards the copy ends with a whole event.

        Raises:
            RemoteError: The store could not be reached; calling it again goes on.
        """
        end = self._whole(self._journal.stat().st_size)
        if end <= self.end:
            return
        with self._journal.open("rb") as file:
            file.seek(self._start)
            content = file.read(end - self._start)
        self._remote.write(f"{self._folder}/{_name(self._start, end)}", content)
        shorter = self.end if self.end > self._start else None
        self.end = end
        if shorter is not None:
            self._remote.remove(f"{self._folder}/{_name(self._start, shorter)}")
        if end - self._start >= _PIECE:
            self._start = end

    def _whole(self, size: int) -> int:
        """Return where the last whole event ends: half a line is half an event."""
        with self._journal.open("rb") as file:
            back = 1 << 16
            while True:
                begin = max(self.end, size - back)
                file.seek(begin)
                cut = file.read(size - begin).rfind(b"\n")
                if cut >= 0:
                    return begin + cut + 1
                if begin == self.end:
                    return self.end
                back *= 8


def read_copy(remote: Remote, folder: str) -> bytes:
    """Return the journal that a copy holds, as far as its last whole event.

    Pieces that a writer left behind by dying between two steps are passed over. A copy with a gap
    ends before it.

    Raises:
        RemoteError: The store could not be reached.
    """
    ends: dict[int, int] = {}
    for name in remote.names(folder):
        match = _NAME.fullmatch(name)
        if match:
            begin, end = int(match[1]), int(match[2])
            ends[begin] = max(end, ends.get(begin, 0))
    content = bytearray()
    while len(content) in ends:
        begin = len(content)
        content += remote.read(f"{folder}/{_name(begin, ends[begin])}")
        if not begin < len(content) == ends[begin]:
            break
    return bytes(content[: content.rfind(b"\n") + 1])


def _name(begin: int, end: int) -> str:
    return f"{begin:015d}-{end:015d}"
