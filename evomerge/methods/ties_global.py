"""TIES-merging as its paper trims (Yadav 2023): over the whole model, not tensor by tensor."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from evomerge.methods.deltas import (
    Aggregate,
    Consensus,
    ZeroSign,
    add_to_base,
    adds_nothing,
    disjoint_deltas,
    trim,
)
from evomerge.methods.parameters import Lambda, PerModelDensity, PerModelWeight, one_per_model
from evomerge.methods.registry import merge_method


@merge_method(reference="Yadav 2023, https://arxiv.org/abs/2306.01708")
def ties_global(
    base: Tensor,
    models: Sequence[Tensor],
    weight: PerModelWeight = 1.0,
    density: PerModelDensity = 0.2,
    normalize: bool = True,
    lambda_: Lambda = 1.0,
    consensus: Consensus = "sum",
    aggregate: Aggregate = "mean",
    zero_sign: ZeroSign = "majority",
    thresholds: Sequence[float] | None = None,
) -> Tensor:
    """Trim the deltas to the largest of the whole model, elect a sign, average what agrees.

    d_i  = w_i * (model_i - base) * [ |model_i - base| >= t_i ]
    sign = the sign of sum_i d_i, that of the majority where the sum is 0
    base + lambda * sum_{i: sign(d_i) = sign} d_i [ / sum_{i: sign(d_i) = sign} w_i ]

    t_i is the magnitude that the part density_i of all elements of the model has or exceeds:
    tensors that changed much keep more than that part, others less. `ties` keeps it in each. Where
    several elements are exactly at the threshold, all are kept. The majority is that of the tensor
    (the paper's is that of the model). mergekit 0.1.5 has no such method.

    Args:
        base: Any shape.
        models: Fine-tuned from the base, of its shape.
        weight: How much of each model's delta is added, and how much its sign counts; any finite
            number.
        density: Part of each model's elements that is kept, those of largest magnitude.
        normalize: Divide each element by the sum of the weights that agree there.
        lambda_: Scale of what is added to the base; any finite number.
        consensus: As in `ties`.
        aggregate: As in `ties`.
        zero_sign: As in `ties`.
        thresholds: t_i of each model; without them the tensor is taken for the whole model.

    >>> import torch
    >>> base, model = torch.zeros(3), torch.tensor([1.0, 3.0, 0.1])
    >>> ties_global(base, [model], density=0.34, thresholds=[0.5])
    tensor([1., 3., 0.])
    """
    weights = one_per_model("weight", weight, len(models))
    densities = one_per_model("density", density, len(models))
    if adds_nothing(lambda_, weights, densities):
        return base.clone()
    deltas = [model - base for model in models]
    if thresholds is None:
        trimmed = [trim(delta, part) for delta, part in zip(deltas, densities, strict=True)]
    else:
        trimmed = [
            delta * (delta.abs() >= least) for delta, least in zip(deltas, thresholds, strict=True)
        ]
    mixed = disjoint_deltas(
        trimmed,
        weights,
        normalize=normalize,
        consensus=consensus,
        aggregate=aggregate,
        zero_sign=zero_sign,
    )
    return add_to_base(base, mixed, lambda_)
