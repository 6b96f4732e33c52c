"""From a recipe to a model folder in one call."""

from __future__ import annotations

from pathlib import Path

from evomerge.merge.build import write
from evomerge.merge.parents.nested import open_parents, with_merges
from evomerge.merge.plan.plan import plan
from evomerge.recipe.recipe import Recipe


def build(
    recipe: Recipe | str | Path, out: str | Path, *, device: str = "cpu", replace: bool = False
) -> str:
    """Merge a recipe into a model folder.

    Args:
        recipe: The recipe, or the YAML file that holds one.
        out: The folder to make; it must not exist, or be empty, unless `replace`.
        device: Where the arithmetic runs.
        replace: Whether an existing folder gives way, once the new one is whole.

    Returns:
        The digest of the merged weights.

    Raises:
        UserError: The file is missing or holds no recipe, or a model does not fit.
    """
    if not isinstance(recipe, Recipe):
        recipe = Recipe.from_yaml(recipe)
    parents = with_merges(recipe, open_parents(recipe.model_names, device), checked=True)
    parents.check(recipe)
    return write(plan(recipe, parents.checkpoints), parents, Path(out), replace=replace)
