"""Scores a run's checkpoints, and the average up to each: from when on averaging helps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.core.errors import UserError
from evomerge.recipe.average import uniform
from evomerge.recipe.recipe import Recipe
from evomerge.study.evaluation.entrants import entrant
from evomerge.study.evaluation.evaluation import ALL, Listener, evaluate
from evomerge.study.statistics.mean_interval import Estimate


@dataclass(frozen=True)
class CurvePoint:
    """One checkpoint and what its run's average was by then.

    Attributes:
        checkpoint: Its folder or hub id.
        alone: Its score, of all tasks together.
        average: The average's; ``None`` where there is none yet.
    """

    checkpoint: str
    alone: Estimate
    average: Estimate | None


def curve(
    checkpoints: Sequence[str],
    average: Callable[[Sequence[str]], Recipe],
    settings: Mapping[str, Any],
    store: Path,
    limit: int | None = None,
    listener: Listener | None = None,
) -> list[CurvePoint]:
    """Score every checkpoint, and the average of the run up to it.

    Args:
        checkpoints: From first to last.
        average: Makes the recipe of the first checkpoints; where these are too few for it, there
            is no average yet.
        settings: As for `entrants`.
        store: As for `evaluate`, which keeps what was scored.
        limit: Documents of each task.
        listener: Hears of every shard.

    Raises:
        UserError: A checkpoint or a task cannot be used, or all checkpoints make no average.
    """
    recipes = {name: uniform([name]) for name in checkpoints}
    averages = {}
    for end, name in enumerate(checkpoints, start=1):
        try:
            averages[name] = average(checkpoints[:end])
        except UserError:
            if end == len(checkpoints):
                raise
    for name, recipe in averages.items():
        recipes[f"average up to {name}"] = recipe
    models = [entrant(name, one, settings, Path.cwd()) for name, one in recipes.items()]
    scored = evaluate(models, store, limit, listener)
    whole = ALL if len(scored.tasks) > 1 else next(iter(scored.tasks))
    by_name = {model.name: model.scores[whole] for model in scored.models}
    return [CurvePoint(n, by_name[n], by_name.get(f"average up to {n}")) for n in checkpoints]
