"""Keeps a statistic on disk, checked whole when it is opened; then tensors are read one by one.

Nothing is mapped, so a file that is cut short while it is used ends no process. Every read looks
whether the file still is the one that was checked.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from evomerge.core import faults
from evomerge.core.atomic import atomic_folder
from evomerge.core.errors import UserError

_INDEX = "index.json"


class Writer:
    """Writes the parts of a statistic into a folder that is not in its place yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, str] = {}

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Write float32 tensors as one more file."""
        file = self._folder / f"part-{len(self._files) + 1}.safetensors"
        faults.reach("statistic.write")
        save_file({name: one.cpu().contiguous() for name, one in tensors.items()}, file)
        self._files[file.name] = _file_digest(file)

    def finish(self, about: Mapping[str, Any]) -> None:
        """Write the index: digests of the files, and what else belongs to the statistic."""
        content = json.dumps({"files": self._files, "about": about}, sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()
        (self._folder / _INDEX).write_text(f"{digest}\n{content}\n", encoding="utf-8")


def write(target: Path) -> Any:
    """Return a context that gives a folder, which appears as `target` when it is whole."""
    return atomic_folder(target, replace=True)


@dataclass(frozen=True)
class Place:
    """Locates a tensor: its file, and the span of its bytes there."""

    file: Path
    start: int
    stop: int
    shape: tuple[int, ...]


@dataclass
class Stored:
    """A statistic on disk whose every byte was looked at.

    Attributes:
        about: What was written beside the tensors.
        digest: Of its content.
        size: Bytes of its tensors.
    """

    about: Mapping[str, Any]
    digest: str
    _places: Mapping[str, Place]
    _seen: Mapping[Path, tuple[int, int, int]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        return sum(place.stop - place.start for place in self._places.values())

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def tensor(self, name: str) -> Tensor:
        """Read one tensor, float32.

        Raises:
            UserError: The file was changed or removed since it was opened.
        """
        place = self._places[name]
        count = place.stop - place.start
        buffer = bytearray(count)
        try:
            with place.file.open("rb") as stream:
                same = _look(os.fstat(stream.fileno())) == self._seen[place.file]
                stream.seek(place.start)
                whole = stream.readinto(buffer) == count
        except OSError:
            same = whole = False
        if not (same and whole):
            raise UserError(
                f"{place.file}: it was changed or removed while it was in use: run the same "
                "command again"
            )
        if not count:
            return torch.zeros(place.shape)
        return torch.frombuffer(buffer, dtype=torch.float32).reshape(place.shape)


def open_stored(folder: Path) -> Stored | None:
    """Open a statistic; ``None`` if there is none, or it is not what was written."""
    try:
        digest, _, content = (folder / _INDEX).read_text(encoding="utf-8").partition("\n")
        content = content.rstrip("\n")
        if hashlib.sha256(content.encode()).hexdigest() != digest:
            return None
        index = json.loads(content)
        places: dict[str, Place] = {}
        seen = {}
        for name, wanted in index["files"].items():
            file = folder / name
            if _file_digest(file) != wanted:
                return None
            seen[file] = _look(file.stat())
            places |= _places(file)
        return Stored(index["about"], digest, places, seen)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _places(file: Path) -> dict[str, Place]:
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
    places = {}
    for name, tensor in header.items():
        if name != "__metadata__":
            start, stop = tensor["data_offsets"]
            shape = tuple(tensor["shape"])
            places[name] = Place(file, 8 + size + start, 8 + size + stop, shape)
    return places


def _look(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
