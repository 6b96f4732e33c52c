"""Plans a wider model: each tensor is one of the narrow model's, tiled."""

from __future__ import annotations

from collections.abc import Mapping

from evomerge import methods
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.loaded.wide import tilings, widened_config
from evomerge.merge.plan.jobs import MergePlan, Ref, TensorJob
from evomerge.methods.widen import Widening
from evomerge.recipe.recipe import Recipe

TILED = "tiled"  # jobs that no method of tensors makes; `merge.tiles` does


def plan_wide(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> MergePlan:
    """Plan a recipe whose method is `widen`.

    Args:
        recipe: The recipe, whose out_dtype is known.
        checkpoints: Every model that it names, opened.

    Raises:
        UserError: The architecture cannot be widened.
    """
    declared = methods.get("widen").parameters
    settings = Widening(**{p.name: recipe.parameters.get(p.name, p.default) for p in declared})
    model = recipe.models[0].model
    narrow = checkpoints[model]
    as_it_is = {"scale": [1.0]}
    if settings.factor == 1:
        names = list(narrow.tensors)
        jobs = [
            TensorJob(n, narrow.tensors[n].shape, None, (Ref(model, n),), "passthrough", as_it_is)
            for n in names
        ]
        return MergePlan(recipe, tuple(jobs), dict(narrow.config))
    config = widened_config(narrow.config, settings.factor)
    jobs = []
    for tiling in tilings(narrow.config, settings.factor, narrow.tensors):
        about = {"repeats": tiling.repeats, "reads": tiling.reads, "noise": settings.noise}
        source = (Ref(model, tiling.source),)
        jobs.append(TensorJob(tiling.name, tiling.shape, None, source, TILED, about))
    return MergePlan(recipe, tuple(jobs), config)
