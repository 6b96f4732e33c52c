"""Concrete subspace learning (Tang 2023) adds deltas under a mask of the model's size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.methods.deltas import add_to_base, adds_nothing, weighted_deltas
from evomerge.methods.parameters import Doc, Lambda, PerModelWeight, one_per_model
from evomerge.methods.registry import merge_method


@merge_method(reference="Tang 2023, https://arxiv.org/abs/2312.06173")
def concrete(
    base: Tensor,
    models: Sequence[Tensor],
    weight: Annotated[
        PerModelWeight, Doc("Scale of each model's share as it was learned; any finite number.")
    ] = 1.0,
    lambda_: Lambda = 1.0,
    mask: Sequence[Tensor] | None = None,
) -> Tensor:
    """Add the models' deltas to the base, each element as much as the models' own rows want it.

    base + lambda * sum_i w_i M_i (model_i - base)

    M_i = s_i m / mean(m) with one mask m in (0, 1) of the tensor's shape for all models and a share
    s_i of each: both are learned once by gradients, along all models' rows
    (`evomerge.calibration.mask`). Without a mask, or where all M are 1, it is task arithmetic.

    Differs from Tang 2023 in what is learned: likelihood of right answers instead of entropy; the
    shares together with the mask instead of before it; and no noise, which did worse then.
    mergekit 0.1.5 has no such method.

    >>> import torch
    >>> models = [torch.tensor([2.0, 1.0]), torch.tensor([1.0, 3.0])]
    >>> masks = [torch.tensor([0.5, 0.5]), torch.tensor([1.0, 2.0])]
    >>> concrete(torch.tensor([1.0, 1.0]), models, mask=masks)
    tensor([1.5000, 5.0000])
    """
    weights = one_per_model("weight", weight, len(models))
    if adds_nothing(lambda_, weights, [1.0] * len(models)):
        return base.clone()
    deltas = [model - base for model in models]
    if mask is not None:
        deltas = [delta * one.to(delta.dtype) for delta, one in zip(deltas, mask, strict=True)]
    return add_to_base(base, weighted_deltas(deltas, weights, normalize=False), lambda_)
