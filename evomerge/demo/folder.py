"""Marks the zoo's folders with their settings, so that a complete one is not made again."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from evomerge.core.atomic import atomic_folder
from evomerge.core.errors import UserError

MARKER = "zoo.json"
_LOCK = ".lock"


def is_complete(folder: Path, made_from: Mapping[str, object]) -> bool:
    """Return whether `folder` was made from exactly this, and its files are still as written."""
    written = _read_marker(folder)
    if written is None or written.get("made_from") != json.loads(json.dumps(made_from)):
        return False
    return written.get("sha256") == _checksums(folder)


@contextmanager
def written_whole(folder: Path, made_from: Mapping[str, object]) -> Iterator[Path]:
    """Yield an empty folder beside `folder`; on success mark it and move it into place.

    A `folder` that this package made earlier is replaced. Anything else in its place is the
    user's, and a `UserError`.
    """
    _refuse_to_replace_others(folder)
    with atomic_folder(folder, replace=True) as partial:
        yield partial
        marker = {"made_from": made_from, "sha256": _checksums(partial)}
        (partial / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")


@contextmanager
def only_builder(directory: Path) -> Iterator[None]:
    """Lock `directory` for this process; wait while another one has it."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the file closes, or the process dies
        yield


def checksum(file: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _checksums(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name != MARKER)
    return {file.name: checksum(file) for file in files}


def _read_marker(folder: Path) -> dict[str, object] | None:
    try:
        content = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _refuse_to_replace_others(folder: Path) -> None:
    ours = (folder / MARKER).exists()
    empty = folder.is_dir() and not any(folder.iterdir())
    if folder.exists() and not (ours or empty):
        raise UserError(
            f"expected a folder that the demo zoo made (with {MARKER}) or none, but {folder} is "
            "something else: move it away, or choose another directory"
        )
