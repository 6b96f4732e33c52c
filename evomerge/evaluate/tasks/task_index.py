"""Looks up names in lm-eval's index of task files: groups, near misses, tasks that run code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.core.errors import UserError, unknown
from evomerge.evaluate.tasks.task_files import broken_files, code_in

Index = Mapping[str, Any]  # name -> lm_eval.tasks._index.Entry


def resolves(name: str, index: Index) -> bool:
    """Return whether a name, and every member if it is a group or tag, is in the index."""
    return all(member in index for member in _reached([name], index))


def task_files(names: Iterable[str], index: Index, built_in: Path) -> dict[Path, str]:
    """Return the users' task files that these names lead to, by way of groups and tags too.

    Those in `built_in` were installed as code, and stay out. Each file comes with a name of it.
    """
    files: dict[Path, str] = {}
    for name in _reached(names, index):
        path = index[name].yaml_path if name in index else None
        if path is not None and built_in not in path.resolve().parents:
            files.setdefault(path, name)
    return files


def refuse_code(name: str, index: Index, built_in: Path) -> None:
    """Refuse a user's task that would run Python, alone or as a member of a group."""
    for path, member in task_files([name], index, built_in).items():
        code = code_in(path)
        if code is not None:
            raise UserError(
                f"task '{member}' runs code of its own ({code}); read it, then allow it with "
                "`allow_task_code`"
            )


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


def _reached(names: Iterable[str], index: Index) -> list[str]:
    """The names and, of groups and tags, all members at any depth; each once."""
    waiting = list(names)
    reached: dict[str, None] = {}
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached[name] = None
            waiting += _members(index[name], index) if name in index else []
    return list(reached)


def _members(entry: Any, index: Index) -> list[str]:
    """The names that lm-eval looks up when it loads a group or tag."""
    config = entry.cfg or {}
    listed = config.get("task") if "group" in config else None
    names = list(entry.tags) if entry.yaml_path is None else []
    return names + (_listed(listed, index) if isinstance(listed, list) else [])


def _listed(members: Sequence[Any], index: Index) -> list[str]:
    """The names in a group's list, those of groups that are written out inside it as well."""
    names = []
    for member in members:
        if isinstance(member, str):
            names.append(member)
            continue
        task, group = member.get("task"), member.get("group")
        if isinstance(task, list):
            names += _listed(task, index)
        elif isinstance(task, str) and ("dataset_path" not in member or task in index):
            names.append(task)  # one that is nowhere else, with a dataset, is written out here
        if isinstance(group, str) and group in index:
            names.append(group)
    return names
