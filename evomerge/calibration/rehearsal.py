"""Forecasts how long gates or a mask take to train, by a few steps of which nothing is kept."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.calibration.cost import steps_of, with_steps
from evomerge.calibration.requests import Rehearsed

if TYPE_CHECKING:
    from evomerge.calibration.statistics import Statistics
    from evomerge.merge.parents.parents import Parents
    from evomerge.recipe.recipe import Recipe

STEPS = 3  # beyond the first, which takes what loading and reading take, too


def rehearsed(statistics: Statistics, recipe: Recipe, parents: Parents) -> Rehearsed:
    """Forecast the training of a recipe's gates or mask.

    Raises:
        UserError: The rows cannot be read, or the model does not run on them.
    """
    stored = statistics.kept(recipe, parents)
    if stored is not None:
        return Rehearsed(stored.about["rows"], is_kept=True, seconds={"total": 0.0})
    spent = []
    for steps in (1, 1, 1 + STEPS):  # the first warms up
        with tempfile.TemporaryDirectory(prefix="evomerge-rehearsal-") as scratch:
            began = time.perf_counter()
            few = with_steps(recipe, steps)
            rows = statistics.in_folder(Path(scratch)).trained(few, parents).about["rows"]
            spent.append(time.perf_counter() - began)
    step = max(0.0, spent[2] - spent[1]) / STEPS
    total = spent[1] + (steps_of(recipe) - 1) * step
    return Rehearsed(rows, is_kept=False, seconds={"total": total})
