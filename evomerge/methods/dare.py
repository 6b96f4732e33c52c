"""DARE (Yu 2024): drop delta elements at random, rescale the rest, add up or merge by TIES."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from evomerge.methods.deltas import (
    Rescale,
    add_to_base,
    adds_nothing,
    disjoint_deltas,
    drop,
    weighted_deltas,
)
from evomerge.methods.deltas import rescale as rescaled
from evomerge.methods.parameters import (
    DropRescale,
    Lambda,
    Normalize,
    NormalizeAgreeing,
    PerModelRandomDensity,
    PerModelVote,
    PerModelWeight,
    one_per_model,
)
from evomerge.methods.random import CounterRandom
from evomerge.methods.registry import merge_method

_HOW: dict[DropRescale, Rescale] = {False: "none", True: "l1", "inverse": "inverse"}


@merge_method(reference="Yu 2024, https://arxiv.org/abs/2311.03099", in_mergekit=True)
def dare_linear(
    base: Tensor,
    models: Sequence[Tensor],
    weight: PerModelWeight,
    density: PerModelRandomDensity = 1.0,
    normalize: Normalize = False,
    rescale: DropRescale = True,
    lambda_: Lambda = 1.0,
    *,
    random: CounterRandom,
) -> Tensor:
    """Keep a random part of each delta, rescale it, add the weighted sum to the base.

    d_i = (model_i - base) * [u_i < density_i], rescaled
    base + lambda * sum_i w_i d_i [ / sum_i w_i ]

    Differs from mergekit 0.1.5: the uniform numbers u_i are a hash of (seed, tensor name, model
    index, flat index), so a recipe has one result, and raising a density only adds elements;
    `rescale` can also be ``inverse``, the paper's; nothing to add returns the base's own bits;
    sums run in model order for any number of models. Given equal masks, the numbers are mergekit's.

    >>> import torch
    >>> draw = CounterRandom(seed=0, name="example")
    >>> merged = dare_linear(torch.zeros(8), [torch.ones(8)], 1.0, density=0.5, random=draw)
    >>> round(merged.sum().item(), 4)  # the L1 norm stays
    8.0
    """
    weights = one_per_model("weight", weight, len(models))
    densities = one_per_model("density", density, len(models))
    if adds_nothing(lambda_, weights, densities):
        return base.clone()
    deltas = _dropped_deltas(base, models, densities, rescale, random)
    return add_to_base(base, weighted_deltas(deltas, weights, normalize=normalize), lambda_)


@merge_method(reference="Yu 2024, https://arxiv.org/abs/2311.03099", in_mergekit=True)
def dare_ties(
    base: Tensor,
    models: Sequence[Tensor],
    weight: PerModelVote,
    density: PerModelRandomDensity = 1.0,
    normalize: NormalizeAgreeing = False,
    rescale: DropRescale = True,
    lambda_: Lambda = 1.0,
    *,
    random: CounterRandom,
) -> Tensor:
    """Keep a random part of each delta, rescale it, elect a sign, add the deltas that agree.

    d_i  = w_i * (model_i - base) * [u_i < density_i], rescaled
    sign = +1 where sum_i d_i >= 0, else -1
    base + lambda * sum_{i: sign(d_i) = sign} d_i [ / sum_{i: sign(d_i) = sign} w_i ]

    TIES (Yadav 2023) with its trimming replaced by DARE's dropping. Differs from mergekit 0.1.5 as
    `dare_linear` does.
    """
    weights = one_per_model("weight", weight, len(models))
    densities = one_per_model("density", density, len(models))
    if adds_nothing(lambda_, weights, densities):
        return base.clone()
    deltas = _dropped_deltas(base, models, densities, rescale, random)
    return add_to_base(base, disjoint_deltas(deltas, weights, normalize=normalize), lambda_)


def _dropped_deltas(
    base: Tensor,
    models: Sequence[Tensor],
    densities: Sequence[float],
    rescale: DropRescale,
    random: CounterRandom,
) -> list[Tensor]:
    """Return each model's delta after DARE; a density of 1 leaves it and draws nothing."""
    deltas = []
    for index, (model, density) in enumerate(zip(models, densities, strict=True)):
        delta = model - base
        if density < 1:
            uniforms = random.uniform(index, delta.shape, device=delta.device)
            rest = drop(delta, density, uniforms)
            delta = rescaled(rest, delta, density, _HOW[rescale])
        deltas.append(delta)
    return deltas
