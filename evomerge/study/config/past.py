"""The configuration in a journal, also in one that an earlier version wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.core.errors import UserError


def of_journal(study: Mapping[str, Any]) -> dict[str, Any]:
    """The study's configuration from its ``study`` event, without keys that are gone by now.

    Raises:
        UserError: The run used a feature that this version lacks; names it and the version.
    """
    config = dict(study["config"])
    search = dict(config.get("search", {}))
    if search.pop("steps", "even") != "even":  # gone in 0.2: measured, it was worth nothing
        raise UserError(
            f"this run was written by evomerge {study.get('version', '0.1.0')} with search.steps, "
            "which later versions lack: read it with that version"
        )
    return {**config, "search": search}


def refuse_other_points(study: Mapping[str, Any], where: str) -> None:
    """Refuse to resume a run whose optimizer asks for other points than in its version.

    Raises:
        UserError: Names the optimizer and the version.
    """
    version = study.get("version", "0.1.0")
    optimizer = study["config"].get("search", {}).get("optimizer")
    if optimizer == "sobol" and version.startswith("0.1."):
        raise UserError(
            f"{where}: evomerge {version} began this run, and its optimizer sobol asked for other "
            "points: resume with that version, or start another run folder"
        )
