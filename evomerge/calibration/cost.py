"""Counts what models' own rows cost, in item evaluations: one that a model reads is one.

Forward and back, for squared gradients and steps of training, counts as three, as it does in a
search. Rows that are read again, for matrices that did not fit at once, are not counted again.
"""

from __future__ import annotations

from evomerge import methods
from evomerge.recipe.recipe import Recipe

FORWARD, FORWARD_AND_BACK = 1, 3
MASK_ROWS = 32  # rows that a step of learning a mask looks at
GATE_ROWS = 16  # rows of a step of training gates, as many of each model (WEMoE's)


def learns_mask(recipe: Recipe) -> bool:
    """Return whether what a recipe trains is a mask; otherwise it is gates."""
    return any("mask" in methods.get(name).takes for name in recipe.method_names)


def steps_of(recipe: Recipe) -> int:
    """Return how many steps the gates or the mask of a recipe are trained for."""
    if learns_mask(recipe):
        return recipe.calibration.steps
    default = {p.name: p.default for p in methods.get(recipe.merge_method).parameters}["steps"]
    return int(recipe.parameters.get("steps", default))


def with_steps(recipe: Recipe, steps: int) -> Recipe:
    """Return a recipe that trains for so many steps."""
    document = recipe.to_dict()
    where = "calibration" if learns_mask(recipe) else "parameters"
    document[where] = {**document.get(where, {}), "steps": steps}
    return Recipe.from_dict(document)


def of_statistic(kind: str, rows: int) -> int:
    """Return what a statistic of so many rows counts as."""
    return rows * (FORWARD_AND_BACK if kind == "fisher" else FORWARD)


def of_training(recipe: Recipe, rows: int) -> int:
    """Return what training the gates or the mask of a recipe counts as.

    Twin-Merging's router learns from states that one pass over all rows leaves.

    Args:
        recipe: The recipe.
        rows: Of all its models together.
    """
    if recipe.merge_method == "twin_merging":
        return rows * FORWARD
    models = len(recipe.models)
    gate_rows = models * max(1, GATE_ROWS // models)
    each = min(MASK_ROWS, rows) if learns_mask(recipe) else gate_rows
    return FORWARD_AND_BACK * each * steps_of(recipe)
