"""Sets a live model to points on the straight lines from parents to the merge that it holds.

    θ(a) = parent + a (merge - parent)

The gradient of a loss at such a point by the merge's weights is a times that by the point's.
Mirzadeh 2021, https://arxiv.org/abs/2010.04495 (MC-SGD).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from evomerge.merge.build import fill
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import MergePlan, plan
from evomerge.recipe.recipe import Recipe


def alone(model: str, like: Recipe) -> Recipe:
    """Return the recipe of one model as it is, in the dtypes of another recipe."""
    document = {
        "merge_method": "linear",
        "models": [{"model": model, "parameters": {"weight": 1.0}}],
        "parameters": {"normalize": False},
    }
    return replace(Recipe.from_dict(document), dtype=like.dtype, out_dtype=like.out_dtype)


class Segment:
    """Moves a live model along lines; the merge's weights are copied once.

    Args:
        model: The live model, which holds the merge.
        built: The merge's plan.
        parents: Its parents.
    """

    def __init__(self, model: torch.nn.Module, built: MergePlan, parents: Parents) -> None:
        self._model, self._built, self._parents = model, built, parents
        self._merge = {n: p.detach().clone() for n, p in model.named_parameters()}

    def move(self, parent: str, a: float) -> None:
        """Set the model to the point a of the line from a parent, 0, to the merge, 1."""
        recipe = alone(parent, self._built.recipe)
        fill(self._model, plan(recipe, self._parents.checkpoints), self._parents)
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                if parameter.is_floating_point():
                    parameter.lerp_(self._merge[name], a)

    def back(self) -> None:
        """Set the model to the merge again, bit for bit."""
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                parameter.copy_(self._merge[name])


@contextmanager
def segment(model: torch.nn.Module, built: MergePlan, parents: Parents) -> Iterator[Segment]:
    """Let a live model be moved; it holds the merge again at the end, whatever happens."""
    moving = Segment(model, built, parents)
    try:
        yield moving
    finally:
        moving.back()
