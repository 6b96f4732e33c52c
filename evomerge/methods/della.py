"""DELLA (Deep 2024): drop small delta elements more often, elect a sign, average what agrees."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from evomerge.methods.della_linear import pruned_deltas
from evomerge.methods.deltas import add_to_base, adds_nothing, disjoint_deltas
from evomerge.methods.parameters import (
    DropRescale,
    Lambda,
    PerModelDensity,
    PerModelSpread,
    PerModelWeight,
    one_per_model,
)
from evomerge.methods.random import CounterRandom
from evomerge.methods.registry import merge_method


@merge_method(reference="Deep 2024, https://arxiv.org/abs/2406.11617", in_mergekit=True)
def della(
    base: Tensor,
    models: Sequence[Tensor],
    weight: PerModelWeight,
    density: PerModelDensity = 1.0,
    epsilon: PerModelSpread = 0.15,
    normalize: bool = True,
    rescale: DropRescale = True,
    lambda_: Lambda = 1.0,
    *,
    random: CounterRandom,
) -> Tensor:
    """Keep a random part of each delta, large elements likelier, elect a sign, average what agrees.

    r_i  = rank of |model_i - base| in its row, from 0 to 1
    p_i  = density_i - epsilon_i + 2 epsilon_i r_i
    d_i  = w_i * (model_i - base) * [u_i < p_i], rescaled
    sign = +1 where sum_i d_i >= 0, else -1
    base + lambda * sum_{i: sign(d_i) = sign} d_i [ / sum_{i: sign(d_i) = sign} w_i ]

    TIES with its trimming replaced by DELLA's dropping. Differs from mergekit 0.1.5 as
    `della_linear` does.

    Args:
        base: Any shape.
        models: Fine-tuned from the base, of its shape.
        weight: How much of each model's delta is added, and how much its sign counts; any finite
            number.
        density: Part of each delta's elements that is kept, on average.
        epsilon: How far an element's own probability may lie from the density.
        normalize: Divide each element by the sum of the weights that agree there.
        rescale: true gives each delta back the L1 norm that it had (mergekit's), ``inverse``
            divides each element by its probability (the paper's, right on average), false does
            nothing.
        lambda_: Scale of what is added to the base; any finite number.
        random: Source of the masks.
    """
    weights = one_per_model("weight", weight, len(models))
    densities = one_per_model("density", density, len(models))
    epsilons = one_per_model("epsilon", epsilon, len(models))
    if adds_nothing(lambda_, weights, densities):
        return base.clone()
    deltas = pruned_deltas(base, models, densities, epsilons, rescale, random)
    return add_to_base(base, disjoint_deltas(deltas, weights, normalize=normalize), lambda_)
