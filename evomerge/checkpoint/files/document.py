"""Reads JSON files of a model folder within limits, so that a small file cannot fill the memory."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from evomerge.core.errors import UserError

MAX_BYTES = 16 * 2**20
# Braces, brackets, commas and colons. 100,000 tensors of four axes have as many; at worst, as names
# with a value each, they become 200 MB.
MAX_PARTS = 1_400_000


def read_json(file: Path, most_bytes: int = MAX_BYTES) -> Any:
    """Return a JSON file that belongs to the folder it is in.

    Raises:
        UserError: It is missing, no regular file, outside its folder, too large, or not JSON.
    """
    size = check_file(file)
    if size > most_bytes:
        raise UserError(f"{file}: expected at most {most_bytes:,} bytes but it has {size:,}")
    try:
        with file.open("rb") as stream:
            return parse_json(stream.read(size))  # no more, whatever it has by now
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: expected JSON: {error}") from None


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
