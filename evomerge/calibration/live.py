"""Loads a parent of a merge as a model that runs by itself."""

from __future__ import annotations

from typing import Any

from evomerge.checkpoint import names as model_name
from evomerge.evaluate.model import load_model
from evomerge.merge.build import fill
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import plan
from evomerge.recipe.recipe import Recipe


def live_parent(model: str, parents: Parents, dtype: str = "float32") -> Any:
    """Return a parent as transformers loads it; an adapter is in its weights.

    Args:
        model: The parent's name.
        parents: Where it is open.
        dtype: Of the weights.

    Raises:
        UserError: transformers does not load it.
    """
    checkpoint = parents.opened[model]
    live, _ = load_model(checkpoint.folder, dtype, parents.device)
    if model_name.split(model)[1] is not None:
        alone = {"merge_method": "passthrough", "models": [model], "dtype": "float32"}
        recipe = Recipe.from_dict(alone)
        fill(live, plan(recipe, {model: checkpoint}), parents.beside({model: checkpoint}, ()))
    return live
