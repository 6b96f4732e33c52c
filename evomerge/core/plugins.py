"""Loads what extends evomerge: installed packages by their entry points, and files of the user's.

What is loaded is remembered with its version or hash, so that a driver, its workers and a resumed
run can agree on it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from evomerge.core.errors import UserError

LOADED: dict[str, str] = {}  # a package's or file's name -> its version or hash
OWN = "evomerge_own_"  # modules of files have names that begin so
FILE = "file "  # and so do their names in LOADED


@cache
def installed(group: str) -> dict[str, Any]:
    """Load every entry point of a group, once, by name.

    Raises:
        UserError: One cannot be imported; names its package.
    """
    loaded = {}
    for point in entry_points(group=group):
        package = point.dist.name if point.dist is not None else point.module
        try:
            loaded[point.name] = point.load()
        except Exception as error:  # a package may raise anything
            raise UserError(
                f"{package}: its entry point {point.name} of {group} cannot be loaded: "
                f"{type(error).__name__}: {error}"
            ) from error
        LOADED[package] = point.dist.version if point.dist is not None else "unknown"
    return loaded


def from_file(entry: str, where: str) -> Any:
    """Import ``FILE.py:NAME`` and return what has that name; this runs the user's code.

    Args:
        entry: The file and the name.
        where: How messages name the setting that it comes from.

    Raises:
        UserError: It is not of that form, there is no such file or name, or the file raises.
    """
    path_text, _, name = entry.rpartition(":")
    path = Path(path_text)
    if not path_text.endswith(".py") or not name.isidentifier():
        raise UserError(f"{where}: expected FILE.py:NAME, but got {entry!r}")
    if not path.is_file():
        raise UserError(f"{where}: there is no file {path}")
    module = _module(path, where)
    if not hasattr(module, name):
        raise UserError(f"{where}: {path} has no {name}")
    return getattr(module, name)


def _module(path: Path, where: str) -> ModuleType:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    module_name = f"{OWN}{path.stem}_{digest[:12]}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # the user's file may raise anything
            del sys.modules[module_name]
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"{where}: {path} cannot be imported: {type(error).__name__}: {error}"
            ) from error
    LOADED[f"{FILE}{path.name}"] = digest[:12]
    return sys.modules[module_name]
