"""Keeps rankings on disk, checked whole when they are opened, then read a key or two at a time.

Nothing is mapped, so a file that is cut short, written over or removed while a process uses it ends
no process: every read looks whether it still is the file that was checked, and if it is not, the
ranking is worked out again.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from evomerge.core.atomic import beside
from evomerge.merge.kernels.delta import Delta
from evomerge.merge.kernels.ranking import Ranking, rank

_BYTES = 8  # of a key


def ranking_in(file: Path, name: str, delta: Delta) -> Ranking:
    """Return the ranking of a delta's elements: the file's, or one made now and written there.

    Args:
        file: Where it is kept.
        name: Identifies the delta's content; a file under another name is ignored.
        delta: Asked for its elements if there is no such file, or no longer.
    """
    ranking = _open(file, name, delta)
    if ranking is None:
        ranking = rank(delta)
        _write(file, name, ranking)
    return ranking


class _KeysOnDisk:
    """The keys of a file that was checked when it looked like `seen`, from byte `first` on."""

    def __init__(self, file: Path, seen: os.stat_result, first: int, count: int, delta: Delta):
        self._file, self._seen, self._first = file, _look(seen), first
        self._count, self._delta = count, delta
        self._held: np.ndarray | None = None  # once the file is another

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, at: slice, /) -> np.ndarray:
        if self._held is None:
            start, stop, _ = at.indices(self._count)
            read = self._read(_BYTES * start, _BYTES * (stop - start))
            if read is not None:
                return np.frombuffer(read, dtype="<i8")
            self._held = rank(self._delta).keys[:]
        return self._held[at]

    def _read(self, start: int, size: int) -> bytes | None:
        try:
            handle = os.open(self._file, os.O_RDONLY)
            try:
                read = os.pread(handle, size, self._first + start)
                same = _look(os.fstat(handle)) == self._seen
            finally:
                os.close(handle)
        except OSError:
            return None
        return read if same and len(read) == size else None


def _open(file: Path, name: str, delta: Delta) -> Ranking | None:
    """Open a ranking on disk; ``None`` if there is none, or the file is not what was written."""
    try:
        with file.open("rb") as stream:
            content, seen = stream.read(), os.fstat(stream.fileno())
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        metadata, tensor = header["__metadata__"], header["keys"]
        stride, (start, stop) = int(metadata["stride"]), tensor["data_offsets"]
        keys = content[8 + size + start : 8 + size + stop]
        whole = tensor["dtype"] == "I64" and metadata["name"] == name and stride > 0
        count = -(-delta.count // stride)
        if not whole or len(keys) != _BYTES * count or metadata["sha256"] != _sha256(keys):
            return None
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return None
    return Ranking(_KeysOnDisk(file, seen, 8 + size + start, count, delta), delta.count, stride)


def _write(file: Path, name: str, ranking: Ranking) -> None:
    """Put a ranking on disk, whole or not at all; a disk that is full or read-only is no error."""
    keys = ranking.keys[:]
    metadata = {"name": name, "stride": str(ranking.stride), "sha256": _sha256(keys.data)}
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = beside(file)
        try:
            partial.write_bytes(save({"keys": torch.from_numpy(keys)}, metadata))
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
    except OSError:
        return


def _look(status: os.stat_result) -> tuple[int, int, int]:
    """Return values that change when a file is overwritten or replaced."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def _sha256(keys: bytes | memoryview) -> str:
    return hashlib.sha256(keys).hexdigest()
