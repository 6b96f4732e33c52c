"""Writes files and folders that appear under their name only when whole.

While it is being made, a file or folder is next to its final place, under a name that says which
process makes it. The next process that makes the same thing removes what a killed one left.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from evomerge.core import faults
from evomerge.core.errors import UserError

_LONGEST_NAME = 120  # bytes; file systems allow 255
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def beside(target: Path) -> Path:
    """Return the temporary path for making `target`; remove leftovers of dead processes."""
    sweep(target)
    owner = f"{_host()}-{os.getpid()}-{_began(os.getpid())}"
    return target.with_name(f".{_short(target.name)}.partial-{owner}")


def sweep(target: Path) -> None:
    """Remove leftovers of `target` by processes of this machine that no longer run."""
    pattern = re.compile(
        rf"\.{re.escape(_short(target.name))}\.partial-{re.escape(_host())}-(\d+)-(\d+)"
    )
    with contextlib.suppress(OSError):
        for entry in os.scandir(target.parent):
            owner = pattern.fullmatch(entry.name)
            if owner and not _is_alive(int(owner[1]), int(owner[2])):
                remove(Path(entry.path))


def remove(path: Path) -> None:
    """Remove a file or a folder; a missing one is as good as removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(file: Path, text: str, errors: str = "strict") -> None:
    """Write a file in UTF-8: the old one stays until the new one is on the disk.

    Raises:
        OSError: It cannot be written; nothing is left of it.
    """
    partial = beside(file)
    try:
        faults.reach("file.write")
        with partial.open("w", encoding="utf-8", errors=errors) as stream:
            stream.write(text)
            stream.flush()
            faults.reach("file.sync")
            os.fsync(stream.fileno())
        faults.reach("file.rename")
        partial.replace(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Make a folder that appears under its name only when whole; on an error nothing is left.

    An old one that is replaced stays until the new one is on the disk.

    Raises:
        UserError: `target` exists, is not empty, and may not be replaced; or the disk is full.
    """
    if target.is_file() or (target.exists() and not replace and any(target.iterdir())):
        raise UserError(f"{target}: already exists; name another folder or remove it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{target}: {target.parent} is not a folder") from None
    partial = beside(target)
    old = beside(target.with_name(f"{target.name}.old"))
    try:
        remove(partial)
        partial.mkdir()
        yield partial
        faults.reach("folder.sync")
        for file in partial.rglob("*"):
            if file.is_file():
                sync(file)
        sync(partial)
        faults.reach("folder.rename")
        if target.exists():
            target.rename(old)
        partial.rename(target)
        sync(target.parent)
    except OSError as error:
        if old.exists() and not target.exists():
            old.rename(target)
        raise UserError(f"cannot write {target}: {cause(error)}; nothing was left behind") from None
    finally:
        remove(partial)
        remove(old)


def cause(error: OSError) -> str:
    """Say in few words why something could not be written."""
    return "disk full" if error.errno in _NO_SPACE else str(error.strerror or error)


@contextlib.contextmanager
def user_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` while `path` is written into a `UserError` that names both."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {cause(error)}; fix that, then run the same command again"
        ) from None


def sync(path: Path) -> None:
    """Flush a file or a folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _short(name: str) -> str:
    """A name, or its beginning and a digest where what is put to it would make it too long."""
    if len(os.fsencode(name)) <= _LONGEST_NAME:
        return name
    return f"{name[:20]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())[:40]


def _began(process: int) -> int:
    """Read when a process began, in the kernel's ticks; 0 where that cannot be known."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _is_alive(process: int, began: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return not began or _began(process) in (0, began)
