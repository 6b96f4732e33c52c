"""Reads and copies the small files of a model folder: regular ones of the folder, within limits.

This is the one door to them, so that no file can hang a process, fill its memory or its disk, or
stand for another outside the folder.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

from evomerge.core.errors import UserError

MAX_BYTES = 16 * 2**20
MAX_COPIED_BYTES = 256 * 2**20
# Braces, brackets, commas and colons. 100,000 tensors of four axes have as many; at worst, as names
# with a value each, they become 200 MB.
MAX_PARTS = 1_400_000


def read_json(file: Path, most_bytes: int = MAX_BYTES) -> Any:
    """Return a JSON file that belongs to the folder it is in.

    Raises:
        UserError: It is missing, no regular file, outside its folder, too large, or not JSON.
    """
    try:
        return parse_json(_read(file, most_bytes))
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file}: expected JSON: {error}") from None


def read_text(file: Path, most_bytes: int = MAX_BYTES) -> str:
    """A UTF-8 text that belongs to the folder it is in.

    Raises:
        UserError: It is missing, no regular file, outside its folder, too large, or not UTF-8.
    """
    try:
        return _read(file, most_bytes).decode("utf-8")
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file}: expected UTF-8 text: {error}") from None


def copy_file(file: Path, out: Path, most_bytes: int = MAX_COPIED_BYTES) -> None:
    """Copy a file that belongs to the folder it is in, whatever it holds.

    Raises:
        UserError: It is missing, no regular file, outside its folder, or too large.
        OSError: The copy cannot be written.
    """
    check_size(file, most_bytes)
    shutil.copyfile(file, out)


def check_size(file: Path, most_bytes: int) -> int:
    """The size of a file that `check_file` accepts, and that is not too large.

    Raises:
        UserError: It is no such file.
    """
    size = check_file(file)
    if size > most_bytes:
        raise UserError(f"{file}: expected at most {most_bytes:,} bytes but it has {size:,}")
    return size


def _read(file: Path, most_bytes: int) -> bytes:
    size = check_size(file, most_bytes)
    with file.open("rb") as stream:
        return stream.read(size)  # no more, whatever it has by now


def parse_json(data: bytes) -> Any:
    """Return JSON whose parts are counted before any is made; a key that appears twice is an error.

    Raises:
        ValueError: It is not that; also for nesting that is too deep.
    """
    if parts_of(data) > MAX_PARTS:
        raise ValueError(f"it has more than {MAX_PARTS:,} parts")
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parts_of(data: bytes) -> int:
    """Return an upper bound of the number of JSON values: braces, brackets, commas, colons."""
    return sum(map(data.count, (b"{", b"[", b",", b":")))


def check_file(file: Path) -> int:
    """Return the size of a regular file that lies in its folder, or in a hub cache's blobs.

    Raises:
        UserError: It is missing, no regular file, or a link that leaves its folder.
    """
    try:
        status = file.stat()
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{file}: expected a regular file")
    if file.is_symlink():
        _check_link(file)
    return status.st_size


def _check_link(file: Path) -> None:
    folder, target = file.parent.resolve(), file.resolve()
    roots = [folder]
    if folder.parent.name == "snapshots":  # the hub's cache: snapshots/REVISION/FILE -> blobs/HASH
        roots.append(folder.parent.parent / "blobs")
    if not any(root in target.parents for root in roots):
        raise UserError(
            f"{file}: a link that leaves the model's folder (to {os.fspath(target)[:200]}); put "
            "the file itself there"
        )


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; ValueError for a key that appears twice."""
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice[:80]!r} appears twice")
    return made
