"""Copies the other files of a run folder: what it recommends, its verdict, its report.

Contents are objects named by their SHA-256, which all writers share: nothing is written twice, and
a restored file is known to be the one that was copied. Each writer has a list of names and digests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from evomerge.core.atomic import beside, remove
from evomerge.study.journal.journal import JOURNAL
from evomerge.study.mirror.remote import Remote

_CONTENT = "content"
_LIST = "list-"
Stamp = tuple[int, int]  # size, time of change


class FilesCopy:
    """One writer's copy of the files of one run folder.

    Args:
        remote: The store.
        folder: Where this writer's list is.
        directory: The run folder.
    """

    def __init__(self, remote: Remote, folder: str, directory: Path) -> None:
        self._remote, self._folder, self._directory = remote, folder, directory
        self._known: dict[str, tuple[Stamp, str]] = {}
        self._stored: set[str] | None = None
        self._written: Mapping[str, str] = {}

    def update(self, largest: int | None = None) -> None:
        """Copy every file that is new or changed, then the list.

        Args:
            largest: Leave larger files for later, in bytes; their place in the list stays as it is.

        Raises:
            RemoteError: The store could not be reached; calling it again goes on.
        """
        if self._stored is None:
            self._stored = set(self._remote.names(_CONTENT))
        listed: dict[str, str] = {}
        for file in sorted(self._directory.rglob("*")):
            name = file.relative_to(self._directory).as_posix()
            if _is_left_out(name) or file.is_symlink() or not file.is_file():
                continue
            try:
                stamp = _stamp(file)
                known = self._known.get(name)
                if known is None or known[0] != stamp:
                    if largest is not None and stamp[0] > largest:
                        continue
                    known = stamp, self._copied(file)
                    if _stamp(file) != stamp:  # it grew meanwhile: next time
                        continue
                    self._known[name] = known
                listed[name] = known[1]
            except FileNotFoundError:  # replaced just now
                continue
        if listed != self._written:
            self._write_list(listed)

    def sweep(self) -> None:
        """Remove the contents that no file of the list has, which earlier writers left."""
        for digest in set(self._remote.names(_CONTENT)) - set(self._written.values()):
            self._remote.remove(f"{_CONTENT}/{digest}")
        self._stored = set(self._written.values())

    def _copied(self, file: Path) -> str:
        assert self._stored is not None
        digest = _sha256(file)
        if digest not in self._stored:
            self._remote.upload(f"{_CONTENT}/{digest}", file)
            self._stored.add(digest)
        return digest

    def _write_list(self, listed: Mapping[str, str]) -> None:
        older = _lists(self._remote, self._folder)
        number = 1 + max((int(name[len(_LIST) :]) for name in older), default=0)
        text = json.dumps(listed, indent=1, sort_keys=True)
        self._remote.write(f"{self._folder}/{_LIST}{number:09d}", text.encode())
        for name in older:
            self._remote.remove(f"{self._folder}/{name}")
        self._written = dict(listed)


def restore_files(
    remote: Remote, folder: str, directory: Path, say: Callable[[str], object]
) -> int:
    """Write the files of a copy that `directory` lacks; returns how many.

    Args:
        remote: The store.
        folder: Where the writer's list is.
        directory: The run folder.
        say: Called with each line for the user.

    A file whose content is not what the list says is left out, and named by `say`.

    Raises:
        RemoteError: The store could not be reached.
    """
    lists = _lists(remote, folder)
    if not lists:
        return 0
    try:
        listed = json.loads(remote.read(f"{folder}/{lists[-1]}"))
        assert isinstance(listed, dict)
    except (ValueError, AssertionError):
        say(f"mirror: {remote.url}/{folder}/{lists[-1]} is damaged: no files but the journal's")
        return 0
    count = 0
    for name, digest in listed.items():
        file = directory / str(name)
        if not _is_inside(str(name)) or _is_left_out(str(name)):
            say(f"mirror: {name!r} is no name of a file in a run folder: left out")
        elif not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = beside(file)
            try:
                remote.download(f"{_CONTENT}/{PurePosixPath(str(digest)).name}", partial)
                if _sha256(partial) == digest:
                    partial.replace(file)
                    count += 1
                else:
                    say(f"mirror: the copy of {name} is damaged: left out")
            finally:
                remove(partial)
    return count


def _lists(remote: Remote, folder: str) -> list[str]:
    return [n for n in remote.names(folder) if n.startswith(_LIST) and n[len(_LIST) :].isdigit()]


def _is_left_out(name: str) -> bool:
    """The journal is copied by itself; a name with a dot in front is a lock or half a file."""
    parts = PurePosixPath(name).parts
    return parts[0] in {JOURNAL, "journal.lock"} or any(part.startswith(".") for part in parts)


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _stamp(file: Path) -> Stamp:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
