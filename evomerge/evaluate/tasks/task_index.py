"""Looks up names in lm-eval's index of task files: groups, near misses, tasks that run code."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.core.errors import UserError, unknown
from evomerge.evaluate.tasks.task_files import broken_files, code_in

Index = Mapping[str, Any]  # name -> lm_eval.tasks._index.Entry


def resolves(name: str, index: Index) -> bool:
    """Return whether a name, and every member if it is a group or tag, is in the index."""
    entry = index.get(name)
    return entry is not None and all(resolves(member, index) for member in _members(entry))


def refuse_code(name: str, index: Index, built_in: Path) -> None:
    """Refuse a user's task that would run Python; those in `built_in` were installed as code."""
    entry = index.get(name)
    if entry is None:
        return
    path = entry.yaml_path
    if path is not None and built_in not in path.resolve().parents:
        code = code_in(path)
        if code is not None:
            raise UserError(
                f"task '{name}' runs code of its own ({code}); read it, then allow it with "
                "`allow_task_code`"
            )
    for member in _members(entry):
        refuse_code(member, index, built_in)


def unknown_task(name: str, index: Index, folders: Sequence[Path]) -> str:
    """Write the message for an unknown task: nearest known names, and the first broken file."""
    listed = [
        known
        for known, entry in index.items()
        if entry.yaml_path and any(folder in entry.yaml_path.parents for folder in folders)
    ]
    where = ", ".join(str(folder) for folder in folders)
    broken = [f"; {path} is broken: {why}" for path, why in broken_files(folders).items()]
    if listed:
        message = unknown("task", name, listed) + f" (in {where}; nor is it one of lm-eval's own)"
    else:
        near = sorted(index, key=lambda known: -_likeness(name, known))[:8]
        message = f"unknown task '{name}': nearest known: {', '.join(near)}"
        message += f" (there are none in {where})" if where else ""
    return message + "".join(broken[:1])


def _likeness(name: str, known: str) -> float:
    return difflib.SequenceMatcher(None, name, known).ratio()


def _members(entry: Any) -> list[str]:
    config = entry.cfg or {}
    listed = config.get("task") if "group" in config else None
    names = list(entry.tags) if entry.yaml_path is None else []
    for member in listed if isinstance(listed, list) else []:
        if isinstance(member, str):
            names.append(member)
        elif isinstance(member.get("task"), str) and "dataset_path" not in member:
            names.append(member["task"])
    return names
