"""Magnitude pruning (Han 2015): zero the smallest weights of one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.methods.deltas import trim
from evomerge.methods.parameters import Count, Doc, PerModelDensity, one_per_model
from evomerge.methods.registry import merge_method


@merge_method(reference="Han 2015, https://arxiv.org/abs/1506.02626")
def magnitude_prune(
    models: Annotated[Sequence[Tensor], Count(1, 1)],
    density: Annotated[
        PerModelDensity,
        Doc(
            "Part of the elements that is kept, those of largest magnitude: 0 keeps none, more "
            "than 0 at least one, 1 all."
        ),
    ] = 1.0,
) -> Tensor:
    """Keep the largest weights of one model, tensor by tensor, and zero the others.

    model * [ |model| among the density largest ]

    It prunes weights, not deltas (`ties` of one model does that). mergekit 0.1.5 has no such
    method.

    >>> import torch
    >>> magnitude_prune([torch.tensor([1.0, -4.0, 2.0, 0.5])], density=0.5)
    tensor([ 0., -4.,  2.,  0.])
    """
    (model,), (part,) = models, one_per_model("density", density, len(models))
    return trim(model, part)
