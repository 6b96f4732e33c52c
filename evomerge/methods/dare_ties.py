"""DARE (Yu 2024) with TIES (Yadav 2023): drop at random, rescale, elect a sign, add what agrees."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from evomerge.methods.dare_linear import dropped_deltas
from evomerge.methods.deltas import add_to_base, adds_nothing, disjoint_deltas
from evomerge.methods.parameters import (
    DropRescale,
    Lambda,
    PerModelDensity,
    PerModelWeight,
    one_per_model,
)
from evomerge.methods.random import CounterRandom
from evomerge.methods.registry import merge_method


@merge_method(reference="Yu 2024, https://arxiv.org/abs/2311.03099", in_mergekit=True)
def dare_ties(
    base: Tensor,
    models: Sequence[Tensor],
    weight: PerModelWeight,
    density: PerModelDensity = 1.0,
    normalize: bool = False,
    rescale: DropRescale = True,
    lambda_: Lambda = 1.0,
    *,
    random: CounterRandom,
) -> Tensor:
    """Keep a random part of each delta, rescale it, elect a sign, add the deltas that agree.

    d_i  = w_i * (model_i - base) * [u_i < density_i], rescaled
    sign = +1 where sum_i d_i >= 0, else -1
    base + lambda * sum_{i: sign(d_i) = sign} d_i [ / sum_{i: sign(d_i) = sign} w_i ]

    TIES with its trimming replaced by DARE's dropping. Differs from mergekit 0.1.5 as
    `dare_linear` does.

    Args:
        base: Any shape.
        models: Fine-tuned from the base, of its shape.
        weight: How much of each model's delta is added, and how much its sign counts; any finite
            number.
        density: Part of each delta's elements that is kept, on average.
        normalize: Divide each element by the sum of the weights that agree there.
        rescale: true gives each delta back the L1 norm that it had (mergekit's), ``inverse``
            divides it by its density (the paper's, right on average), false does nothing.
        lambda_: Scale of what is added to the base; any finite number.
        random: Source of the masks.
    """
    weights = one_per_model("weight", weight, len(models))
    densities = one_per_model("density", density, len(models))
    if adds_nothing(lambda_, weights, densities):
        return base.clone()
    deltas = dropped_deltas(base, models, densities, rescale, random)
    return add_to_base(base, disjoint_deltas(deltas, weights, normalize=normalize), lambda_)
