"""The study file's rows of models' own: their tasks' search items, or a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evomerge.checkpoint import names as model_name
from evomerge.core.errors import UserError, unknown
from evomerge.recipe import rows
from evomerge.recipe.rows import Data


@dataclass(frozen=True)
class DataConfig:
    """Rows of one model's own; written beside the model, as ``{model: …, tasks: […]}``.

    Attributes:
        model: The model: one of `models`, or the base, whose rows only UBGM reads.
        tasks: Tasks of the study whose search items, with their right answers, are its rows.
        data: Or a file of rows.
    """

    model: str
    tasks: tuple[str, ...] = ()
    data: Data | None = None

    def complete(self, folder: Path) -> DataConfig:
        """Return it with absolute folders."""
        return replace(self, model=model_name.relocated(self.model, folder))


def apart(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a study's document whose models are names, and what stood beside them under `data`."""
    listed = document.get("models")
    if not isinstance(listed, list):
        return document
    names, data = [], []
    for entry in listed:
        if isinstance(entry, Mapping) and "model" in entry and {"tasks", "data"} & entry.keys():
            names.append(entry["model"])
            data.append(dict(entry))
        else:
            names.append(entry)
    more = document.get("data")
    if isinstance(more, list):
        data += [dict(entry) if isinstance(entry, Mapping) else entry for entry in more]
    for entry in data:
        if isinstance(entry, dict) and entry.get("data") is not None:
            entry["data"] = rows.relocated(entry["data"], folder)
    return {**document, "models": names, **({"data": data} if data else {})}


def check(
    data: Sequence[DataConfig], models: Sequence[str], tasks: Sequence[str], where: str
) -> None:
    """Refuse rows of strange models, of unknown tasks, and of none or both kinds."""
    listed = [one.model for one in data]
    for i, one in enumerate(data):
        at = f"{where}: data[{i}]"
        if one.model not in models:
            raise UserError(f"{at}: {unknown('model', one.model, models)}")
        if listed.count(one.model) > 1:
            raise UserError(f"{at}: {one.model} has rows twice")
        if bool(one.tasks) == (one.data is not None):
            raise UserError(f"{at}: expected tasks or data, and only one of them")
        for task in one.tasks:
            if task not in tasks:
                raise UserError(f"{at}: {unknown('task', task, tasks)}")
