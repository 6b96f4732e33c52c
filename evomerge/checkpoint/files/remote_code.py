"""Pins the Python files of a model's folder by a hash, so that only code that was allowed runs.

transformers runs such code where a ``config.json`` or ``tokenizer_config.json`` names it in
``auto_map``. Here it runs for one model alone, the base, and only while every Python file in its
folder is byte for byte what the study file allows: the allowance is a hash of them all.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evomerge.checkpoint.files.document import check_file, copy_file, read_json
from evomerge.core.errors import UserError

_NAMING = ("config.json", "tokenizer_config.json")
_MAX_BYTES = 4 * 2**20  # of one file
_MAX_FILES = 100
_IN_THE_FOLDER = re.compile(r"\w+\.\w+")  # module.Class; with `repository--` it is elsewhere


def code_files(folder: Path) -> dict[str, str]:
    """Return SHA-256 of every Python file in a model's folder, by its name in it.

    Raises:
        UserError: There are more than a hundred, one is larger than 4 MiB, or a link leads out.
    """
    digests: dict[str, str] = {}
    for path in sorted(folder.rglob("*.py")):
        check_file(path)
        if len(digests) == _MAX_FILES or path.stat().st_size > _MAX_BYTES:
            raise UserError(
                f"{path}: expected at most {_MAX_FILES} Python files of {_MAX_BYTES:,} bytes in a "
                "model's folder"
            )
        digests[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digests


def pin(files: dict[str, str]) -> str:
    """Return one SHA-256 for all of them, names included."""
    lines = "\n".join(f"{name} {digest}" for name, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def named_code(folder: Path) -> list[str]:
    """Return the classes, as ``module.Class``, that a model's folder names as its own."""
    return sorted(set(_references(folder)))


def allowed_code(folder: Path, allowed: str) -> dict[str, str]:
    """Return SHA-256 of each Python file in a model's folder, if they are what was allowed to run.

    Args:
        folder: A model's folder.
        allowed: What `pin` gave for its files when they were read and approved.

    Raises:
        UserError: They are others, or none, or it names code that is not in the folder.
    """
    files = _nameable(folder)
    if pin(files) != allowed:
        raise UserError(
            f"{folder}: trust_remote_code allows {allowed[:16]}..., but its Python files "
            f"({_listed(files)}) have {pin(files)}; read them again before you allow that"
        )
    return files


def allowance_hint(folder: Path) -> str:
    """Say what the study file must contain for a model's own code to run, or why it cannot run.

    Raises:
        UserError: It names none, or some that is not in the folder.
    """
    files = _nameable(folder)
    return (
        f"it brings its own Python ({_listed(files)}), which does not run by default; read it, "
        f"and if it may run as you, set trust_remote_code: {pin(files)} in the study file"
    )


def copy_code(folder: Path, out: Path) -> None:
    """Put the Python files of a model that names some into another folder; nothing is run."""
    for name in code_files(folder) if named_code(folder) else ():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        copy_file(folder / name, out / name)


def _nameable(folder: Path) -> dict[str, str]:
    named = named_code(folder)
    if not named:
        raise UserError(
            f"trust_remote_code: {folder} names no code of its own in config.json; leave "
            "the key out"
        )
    elsewhere = [reference for reference in named if not _IN_THE_FOLDER.fullmatch(reference)]
    if elsewhere:
        raise UserError(
            f"{folder}: it names code that is not in it ({elsewhere[0][:80]}), which cannot be "
            "pinned; put those files into the folder and name them in its config.json"
        )
    return code_files(folder)


def _listed(files: dict[str, str]) -> str:
    entries = [f"{name} {digest[:16]}" for name, digest in files.items()]
    return ", ".join(entries[:5]) + (f" and {len(entries) - 5} more" if len(entries) > 5 else "")


def _references(folder: Path) -> Iterator[str]:
    for name in _NAMING:
        if (folder / name).is_file():
            config = read_json(folder / name)
            yield from _texts(config.get("auto_map") if isinstance(config, dict) else None)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
