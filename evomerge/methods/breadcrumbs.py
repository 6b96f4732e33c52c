"""Model Breadcrumbs (Davari 2023): drop a delta's smallest elements and outliers, add or TIES."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.methods.deltas import (
    add_to_base,
    adds_nothing,
    disjoint_deltas,
    rescale_by_l1,
    trim_outliers,
    weighted_deltas,
)
from evomerge.methods.parameters import (
    Doc,
    L1Rescale,
    Lambda,
    Normalize,
    NormalizeAgreeing,
    PerModelDensity,
    PerModelFloat,
    PerModelVote,
    PerModelWeight,
    Range,
    one_per_model,
)
from evomerge.methods.registry import merge_method

PerModelMiddle = Annotated[PerModelDensity, Doc("Part of each delta's elements that is kept.")]
PerModelOutliers = Annotated[
    PerModelFloat,
    Range(0.0, 0.1, valid_low=0.0, valid_high=1.0),
    Doc("Part of each delta's elements, those of largest magnitude, that is dropped."),
]


@merge_method(reference="Davari 2023, https://arxiv.org/abs/2312.06795", in_mergekit=True)
def breadcrumbs(
    base: Tensor,
    models: Sequence[Tensor],
    weight: PerModelWeight,
    density: PerModelMiddle = 1.0,
    gamma: PerModelOutliers = 0.01,
    normalize: Normalize = False,
    rescale: L1Rescale = False,
    lambda_: Lambda = 1.0,
) -> Tensor:
    """Zero the smallest and the largest elements of each delta, add the weighted sum to the base.

    d_i = model_i - base, without its gamma_i largest magnitudes; of the rest the density_i largest
    base + lambda * sum_i w_i d_i [ / sum_i w_i ]

    As mergekit 0.1.5 does: where density + gamma exceeds 1 fewer outliers go; a density of 1 leaves
    even them; a tensor with fewer than 1 / density elements loses its delta. Masks are per tensor.

    Differs from mergekit 0.1.5: of equal magnitudes a fixed hash of the index says which
    counts as the larger (left open there); a lambda of 0, or models that are all of weight or
    density 0, return the base's own bits; sums run in model order for any number of models.

    >>> import torch
    >>> model = torch.tensor([9.0, 1.0, 3.0, 2.0])
    >>> breadcrumbs(torch.zeros(4), [model], weight=1.0, density=0.5, gamma=0.25)
    tensor([0., 0., 3., 2.])
    """
    weights = one_per_model("weight", weight, len(models))
    densities = one_per_model("density", density, len(models))
    gammas = one_per_model("gamma", gamma, len(models))
    if adds_nothing(lambda_, weights, densities):
        return base.clone()
    deltas = _middling_deltas(base, models, densities, gammas, rescale=rescale)
    return add_to_base(base, weighted_deltas(deltas, weights, normalize=normalize), lambda_)


@merge_method(reference="Davari 2023, https://arxiv.org/abs/2312.06795", in_mergekit=True)
def breadcrumbs_ties(
    base: Tensor,
    models: Sequence[Tensor],
    weight: PerModelVote,
    density: PerModelMiddle = 1.0,
    gamma: PerModelOutliers = 0.01,
    normalize: NormalizeAgreeing = False,
    rescale: L1Rescale = False,
    lambda_: Lambda = 1.0,
) -> Tensor:
    """Zero the smallest and largest elements of each delta, elect a sign, add what agrees.

    d_i  = w_i * (model_i - base), without its gamma_i largest magnitudes, of the rest the
           density_i largest
    sign = +1 where sum_i d_i >= 0, else -1
    base + lambda * sum_{i: sign(d_i) = sign} d_i [ / sum_{i: sign(d_i) = sign} w_i ]

    TIES (Yadav 2023) with breadcrumbs' trimming. Differs from mergekit 0.1.5 as `breadcrumbs` does.
    """
    weights = one_per_model("weight", weight, len(models))
    densities = one_per_model("density", density, len(models))
    gammas = one_per_model("gamma", gamma, len(models))
    if adds_nothing(lambda_, weights, densities):
        return base.clone()
    deltas = _middling_deltas(base, models, densities, gammas, rescale=rescale)
    return add_to_base(base, disjoint_deltas(deltas, weights, normalize=normalize), lambda_)


def _middling_deltas(
    base: Tensor,
    models: Sequence[Tensor],
    densities: Sequence[float],
    gammas: Sequence[float],
    *,
    rescale: bool,
) -> list[Tensor]:
    """Return each model's delta without its smallest elements and its outliers."""
    deltas = []
    for model, density, gamma in zip(models, densities, gammas, strict=True):
        delta = model - base
        middle = trim_outliers(delta, density, gamma)
        deltas.append(rescale_by_l1(middle, delta) if rescale and density < 1 else middle)
    return deltas
