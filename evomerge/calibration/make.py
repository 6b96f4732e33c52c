"""Builds a recipe as a model folder, running models on rows of their own where it asks for that."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

from evomerge.calibration.statistics import Statistics
from evomerge.merge import build as merging
from evomerge.recipe.recipe import Recipe


def build(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    device: str = "cpu",
    replace: bool = False,
    note: Callable[[str], None] = warnings.warn,
) -> str:
    """Merge a recipe into a model folder.

    Args:
        recipe: The recipe, or the path of its YAML file.
        out: The folder to make; it must not exist, or be empty, unless `replace`.
        device: Where the arithmetic runs.
        replace: Whether to replace an existing folder, once the new one is complete.
        note: Takes a sentence for each parent whose config computes in another way.

    Returns:
        The digest of the merged weights.

    Raises:
        UserError: The recipe cannot be read, a parent does not fit, its rows cannot be used, or
            `out` is not empty.
    """
    return merging.build(
        recipe, out, device=device, replace=replace, note=note, statistics=Statistics
    )
