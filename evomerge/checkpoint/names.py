"""Parses the names of models in recipes: a folder or a hub id, with an adapter on it or without.

The form with ``+``, ``base+adapter``, is mergekit's. ``{model: base, adapter: folder}`` says the
same in a mapping and is turned into it before anything else reads a document, so that a model's
name is always text.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from evomerge.core.errors import UserError

HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")
_CACHED = re.compile(r"models--([^/]+?)--([^/]+)")  # the hub's folder for what was downloaded


def hub_repositories(name: str) -> list[str]:
    """Return the repositories on the hub that a model's name consists of, without revisions.

    A folder is none, unless it is the hub's own copy of one.

    >>> hub_repositories("org/base@refs/pr/3+org/adapter")
    ['org/base', 'org/adapter']
    >>> hub_repositories("/hub/models--org--base/snapshots/0123")
    ['org/base']
    >>> hub_repositories("/models/expert")
    []
    """
    repositories = []
    for part in parts_of(name):
        match = HUB_ID.fullmatch(part)
        copy = next((m for m in map(_CACHED.fullmatch, Path(part).parts) if m), None)
        if copy is not None:
            repositories.append(f"{copy[1]}/{copy[2]}")
        elif match is not None and not _is_there(part, Path()):
            repositories.append(match[1])
    return repositories


def split(name: str, folder: Path = Path()) -> tuple[str, str | None]:
    """Return a model and the adapter on it, or ``None`` where the name is of one folder or hub id.

    A ``+`` within the name of a folder does not split it; folders are looked for below `folder`.

    >>> split("org/base+org/adapter")
    ('org/base', 'org/adapter')
    >>> split("org/base+first+second")
    ('org/base+first', 'second')
    >>> split("org/base")
    ('org/base', None)
    """
    if "+" not in name or _is_there(name, folder):
        return name, None
    cuts = [at for at, letter in enumerate(name) if letter == "+"]
    both = (
        at
        for at in reversed(cuts)
        if _is_there(name[:at], folder) and _is_there(name[at + 1 :], folder)
    )
    at = next(both, cuts[-1])
    return name[:at], name[at + 1 :]


def host_of(name: str) -> str:
    """Return the folder or hub id under every adapter of a name.

    >>> host_of("org/base+first+second")
    'org/base'
    """
    host, adapter = split(name)
    return name if adapter is None else host_of(host)


def adapters_on(name: str, base: str) -> int | None:
    """Return how many adapters of a name lie on another; ``None`` if it is not that one with any.

    >>> adapters_on("org/base+first+second", "org/base")
    2
    >>> adapters_on("org/other+first", "org/base") is None
    True
    """
    count, host, adapter = 0, *split(name)
    while name != base:
        if adapter is None:
            return None
        name, count = host, count + 1
        host, adapter = split(name)
    return count


def parts_of(name: str, folder: Path = Path()) -> list[str]:
    """Return the model and every adapter on it, in order."""
    host, adapter = split(name, folder)
    return [name] if adapter is None else [*parts_of(host, folder), adapter]


def relocated(name: str, folder: Path) -> str:
    """Return the same name with every folder in it that is relative to `folder` made absolute."""
    return "+".join(
        str((folder / part).resolve()) if _is_there(part, folder) else part
        for part in parts_of(name, folder)
    )


def joined(document: Any, where: str) -> Any:
    """Return the same document with every ``{model: base, adapter: folder}`` as one name.

    Raises:
        UserError: An adapter, or the model that it belongs to, is no text.
    """
    if isinstance(document, list):
        return [joined(item, where) for item in document]
    if not isinstance(document, dict):
        return document
    result = {key: joined(value, where) for key, value in document.items()}
    for key in ("model", "base_model", "tokenizer_source"):
        if key in result:
            result[key] = _alone(result[key])
    if isinstance(result.get("models"), list):
        result["models"] = [_alone(item) for item in result["models"]]
    if "adapter" in result:
        model, adapter = result.get("model"), result.pop("adapter")
        if not (isinstance(model, str) and model and isinstance(adapter, str) and adapter):
            raise UserError(
                f"{where}: expected {{model: base, adapter: folder}}, both as text, but got "
                f"model {model!r} and adapter {adapter!r}"
            )
        result["model"] = f"{model}+{adapter}"
    return result


def _alone(value: Any) -> Any:
    """Return the name in ``{model: name}``, to which an adapter may be joined; else the value."""
    alone = isinstance(value, dict) and set(value) == {"model"} and isinstance(value["model"], str)
    return value["model"] if alone else value


def public(name: str) -> str:
    """Return the name without local folders."""
    return "+".join(
        Path(part).name if Path(part).is_absolute() else part for part in parts_of(name)
    )


def _is_there(name: str, folder: Path) -> bool:
    return bool(name) and (folder / os.path.expanduser(name)).exists()
