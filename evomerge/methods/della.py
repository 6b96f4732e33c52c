"""DELLA (Deep 2024): drop small delta elements more often than large ones, add up or TIES-merge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.methods.deltas import (
    add_to_base,
    adds_nothing,
    disjoint_deltas,
    drop,
    rank_densities,
    rescale_by_l1,
    weighted_deltas,
)
from evomerge.methods.parameters import (
    Doc,
    DropRescale,
    Lambda,
    Normalize,
    NormalizeAgreeing,
    PerModelFloat,
    PerModelRandomDensity,
    PerModelVote,
    PerModelWeight,
    Range,
    one_per_model,
)
from evomerge.methods.random import CounterRandom
from evomerge.methods.registry import merge_method

PerModelSpread = Annotated[
    PerModelFloat,
    Range(0.0, 0.5, valid_low=0.0, valid_high=1.0),
    Doc("How far an element's own probability may lie from the density."),
]
MagpruneRescale = Annotated[
    DropRescale,
    Doc(
        "true gives each delta back the L1 norm that it had (mergekit's), ``inverse`` divides each "
        "element by its probability (the paper's, right on average), false does nothing."
    ),
]


@merge_method(reference="Deep 2024, https://arxiv.org/abs/2406.11617", in_mergekit=True)
def della_linear(
    base: Tensor,
    models: Sequence[Tensor],
    weight: PerModelWeight,
    density: PerModelRandomDensity = 1.0,
    epsilon: PerModelSpread = 0.15,
    normalize: Normalize = False,
    rescale: MagpruneRescale = True,
    lambda_: Lambda = 1.0,
    *,
    random: CounterRandom,
) -> Tensor:
    """Keep a random part of each delta, large elements likelier, add the weighted sum to the base.

    r_i = rank of |model_i - base| in its row, from 0 to 1
    p_i = density_i - epsilon_i + 2 epsilon_i r_i
    d_i = (model_i - base) * [u_i < p_i], rescaled
    base + lambda * sum_i w_i d_i [ / sum_i w_i ]

    Rows run along the second dimension, as in mergekit 0.1.5; a vector is one row. The paper (its
    MAGPRUNE) rescales by 1 / p_i. An epsilon of 0 is DARE.

    Differs from mergekit 0.1.5: an epsilon for which density leaves no room is cut down to
    min(density, 1 - density), which is an error there; an element alone in its row is kept with
    probability density (an error there); of equal magnitudes the lower index ranks lower (left
    open there); `rescale` can also be ``inverse``, the paper's; the uniform numbers u_i are a hash
    of (seed, tensor name, model index, flat index), so a recipe has one result; nothing to add
    returns the base's own bits; sums run in model order. Given equal masks, the numbers are
    mergekit's.
    """
    weights = one_per_model("weight", weight, len(models))
    densities = one_per_model("density", density, len(models))
    epsilons = one_per_model("epsilon", epsilon, len(models))
    if adds_nothing(lambda_, weights, densities):
        return base.clone()
    deltas = _pruned_deltas(base, models, densities, epsilons, rescale, random)
    return add_to_base(base, weighted_deltas(deltas, weights, normalize=normalize), lambda_)


@merge_method(reference="Deep 2024, https://arxiv.org/abs/2406.11617", in_mergekit=True)
def della(
    base: Tensor,
    models: Sequence[Tensor],
    weight: PerModelVote,
    density: PerModelRandomDensity = 1.0,
    epsilon: PerModelSpread = 0.15,
    normalize: NormalizeAgreeing = True,
    rescale: MagpruneRescale = True,
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
    """
    weights = one_per_model("weight", weight, len(models))
    densities = one_per_model("density", density, len(models))
    epsilons = one_per_model("epsilon", epsilon, len(models))
    if adds_nothing(lambda_, weights, densities):
        return base.clone()
    deltas = _pruned_deltas(base, models, densities, epsilons, rescale, random)
    return add_to_base(base, disjoint_deltas(deltas, weights, normalize=normalize), lambda_)


def _pruned_deltas(
    base: Tensor,
    models: Sequence[Tensor],
    densities: Sequence[float],
    epsilons: Sequence[float],
    rescale: DropRescale,
    random: CounterRandom,
) -> list[Tensor]:
    """Return each model's delta after MAGPRUNE; a density of 1 leaves it and draws nothing."""
    deltas = []
    for index, model in enumerate(models):
        delta, density = model - base, densities[index]
        if density < 1:
            probability = rank_densities(delta, density, epsilons[index])
            uniforms = random.uniform(index, delta.shape, device=delta.device)
            rest = drop(delta, probability, uniforms)
            if rescale == "inverse":
                rest = rest / probability.masked_fill(probability <= 0, 1.0)
            delta = rescale_by_l1(rest, delta) if rescale is True else rest
        deltas.append(delta)
    return deltas
