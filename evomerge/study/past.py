"""Reads the configuration in a journal, also in one that an earlier version wrote."""

from __future__ import annotations

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
