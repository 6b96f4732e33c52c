"""Reads the configuration in a journal, also in one that an earlier version wrote."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from evomerge.core.errors import UserError
from evomerge.study.journal.events import StudyEvent


def of_journal(study: StudyEvent) -> dict[str, Any]:
    """Return the study's configuration from its journal, without keys that are gone by now.

    Raises:
        UserError: The run used a feature that this version lacks; names it and the version.
    """
    config = dict(study.config)
    search = dict(config.get("search", {}))
    if search.pop("steps", "even") != "even":  # gone in 0.2: measured, it was worth nothing
        raise UserError(
            f"this run was written by evomerge {study.version} with search.steps, "
            "which later versions lack: read it with that version"
        )
    return {**config, "search": search}


def refuse_other_points(study: StudyEvent, where: str) -> None:
    """Refuse to resume a run whose optimizer asks for other points than in its version.

    Raises:
        UserError: Names the optimizer and the version.
    """
    if study.config["search"]["optimizer"] == "sobol" and study.version.startswith("0.1."):
        raise UserError(
            f"{where}: evomerge {study.version} began this run, and its optimizer sobol asked for "
            "other points: resume with that version, or start another run folder"
        )


_PATHS = (
    *("base_model", "models", "model", "space", "include_path"),
    *("text", "preferences", "function", "file"),
)


def moved_paths(old: Any, new: Any) -> dict[str, str]:
    """The new path of each model and file that two configurations name differently, by the old.

    None at all if one old path has several new ones, or several have one.
    """
    pairs = {*_pairs(old, new, "")}
    paths = dict(sorted(pairs))
    return paths if len(pairs) == len(paths) == len({*paths.values()}) else {}


def _pairs(old: Any, new: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping) and key != "space":
        for name, value in old.items():
            yield from _pairs(value, new.get(name), name)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for before, after in zip(old, new, strict=True):
            yield from _pairs(before, after, key)
    elif key in _PATHS and _is_path(old) and _is_path(new) and old != new:
        yield old, new


def _is_path(value: Any) -> bool:
    """Return whether a text is a whole path; an id on the hub stays where it is."""
    return isinstance(value, str) and os.path.isabs(value)
