"""A folder that appears whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evomerge.core import faults
from evomerge.core.errors import UserError
from evomerge.core.partial import beside, cause, remove, sync


@contextmanager
def atomic_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder that appears under its name only when whole; on an error nothing is left.

    An old one that is replaced stays until the new one is on the disk.

    Raises:
        UserError: `target` exists, is not empty, and may not be replaced; or the disk is full.
    """
    if target.is_file() or (target.exists() and not replace and any(target.iterdir())):
        raise UserError(f"{target}: already exists; name another place or remove it")
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
        raise UserError(f"cannot write {target}: {cause(error)}; nothing of it is left") from None
    finally:
        remove(partial)
        remove(old)
