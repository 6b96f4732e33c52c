"""Mask merging (Jaiswal 2023, Instant Soup) makes one mask for all deltas of each one's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from torch import Tensor

from evomerge.methods.deltas import (
    add_to_base,
    adds_nothing,
    kept_count,
    largest,
    sum_in_order,
    weighted_deltas,
)
from evomerge.methods.parameters import (
    Doc,
    Lambda,
    Normalize,
    PerModelDensity,
    PerModelWeight,
    one_per_model,
)
from evomerge.methods.registry import merge_method


@merge_method(reference="Jaiswal 2023, https://arxiv.org/abs/2306.10460")
def mask_merge(
    base: Tensor,
    models: Sequence[Tensor],
    weight: PerModelWeight,
    density: Annotated[
        PerModelDensity,
        Doc("Part of each delta's elements, those of largest magnitude, that its mask keeps."),
    ] = 1.0,
    masks: Annotated[
        Literal["union", "intersect", "vote"], Doc("How the models' masks become one.")
    ] = "union",
    normalize: Normalize = False,
    lambda_: Lambda = 1.0,
) -> Tensor:
    """Add the weighted sum of the deltas to the base where their masks, put together, allow it.

    m_i = the density_i largest magnitudes of model_i - base
    m   = any m_i (union), every m_i (intersect), or more than half of them (vote)
    base + lambda * m * sum_i w_i (model_i - base) [ / sum_i w_i ]

    Unlike in TIES, a model adds what its own mask would drop, where the common mask keeps it.
    Jaiswal 2023 merges the masks of pruned weights (by union); here they are the deltas'. mergekit
    0.1.5 has no such method.

    >>> import torch
    >>> models = [torch.tensor([3.0, 2.0, 1.0]), torch.tensor([3.0, 1.0, 2.0])]
    >>> mask_merge(torch.zeros(3), models, weight=0.5, density=0.67, masks="intersect")
    tensor([3., 0., 0.])
    """
    weights = one_per_model("weight", weight, len(models))
    densities = one_per_model("density", density, len(models))
    if adds_nothing(lambda_, weights, densities):
        return base.clone()
    deltas = [model - base for model in models]
    model_masks = [
        largest(delta.abs(), kept_count(part, delta.numel())).to(base.dtype)
        for delta, part in zip(deltas, densities, strict=True)
    ]
    needed = {"union": 1.0, "intersect": float(len(models)), "vote": (len(models) + 1) / 2}
    mask = sum_in_order(model_masks) >= needed[masks]
    return add_to_base(base, weighted_deltas(deltas, weights, normalize=normalize) * mask, lambda_)
