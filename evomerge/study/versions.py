"""Identifies the code that runs: a driver, its workers and a resumed run must agree on it."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from evomerge.core.plugins import LOADED
from evomerge.core.version import __version__

# Whatever changes the last bits of a score, or the points that an optimizer proposes.
_PACKAGES = ("torch", "transformers", "tokenizers", "lm_eval", "numpy", "cma", "cmaes", "optuna")


def versions() -> dict[str, str]:
    """Return a hash of our code, and the versions of what decides results, plug-ins too."""
    return dict(_versions()) | LOADED


def difference(old: Mapping[str, str], new: Mapping[str, str]) -> str | None:
    """List every version that differs, as ``torch 2.12 -> 2.13``; ``None`` if none does.

    >>> difference({"torch": "2.12", "numpy": "2.1"}, {"torch": "2.13", "numpy": "2.1"})
    'torch 2.12 -> 2.13'
    """
    changes = [
        f"{name} {old.get(name, 'none')} -> {new.get(name, 'none')}"
        for name in [*old, *(name for name in new if name not in old)]
        if old.get(name) != new.get(name)
    ]
    return ", ".join(changes) or None


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    by_name = {"evomerge": __version__, "code": _code(), "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            by_name[package] = version(package)
        except PackageNotFoundError:
            by_name[package] = "none"
    return tuple(by_name.items())


def _code() -> str:
    """Hash this package's files, by name and content."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root)}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12]
