"""Model Breadcrumbs (Davari 2023) with TIES (Yadav 2023): no outliers, one sign per element."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from evomerge.methods.breadcrumbs import middling_deltas
from evomerge.methods.deltas import add_to_base, adds_nothing, disjoint_deltas
from evomerge.methods.parameters import (
    Lambda,
    PerModelDensity,
    PerModelOutliers,
    PerModelWeight,
    one_per_model,
)
from evomerge.methods.registry import merge_method


@merge_method(reference="Davari 2023, https://arxiv.org/abs/2312.06795", in_mergekit=True)
def breadcrumbs_ties(
    base: Tensor,
    models: Sequence[Tensor],
    weight: PerModelWeight,
    density: PerModelDensity = 1.0,
    gamma: PerModelOutliers = 0.01,
    normalize: bool = False,
    rescale: bool = False,
    lambda_: Lambda = 1.0,
) -> Tensor:
    """Zero the smallest and largest elements of each delta, elect a sign, add what agrees.

    d_i  = w_i * (model_i - base), without its gamma_i largest magnitudes, of the rest the
           density_i largest
    sign = +1 where sum_i d_i >= 0, else -1
    base + lambda * sum_{i: sign(d_i) = sign} d_i [ / sum_{i: sign(d_i) = sign} w_i ]

    TIES with breadcrumbs' trimming. Differs from mergekit 0.1.5 as `breadcrumbs` does.

    Args:
        base: Any shape.
        models: Fine-tuned from the base, of its shape.
        weight: How much of each model's delta is added, and how much its sign counts; any finite
            number.
        density: Part of each delta's elements that is kept.
        gamma: Part of each delta's elements, those of largest magnitude, that is dropped.
        normalize: Divide each element by the sum of the weights that agree there.
        rescale: Give what is left of each delta the L1 norm that it had.
        lambda_: Scale of what is added to the base; any finite number.
    """
    weights = one_per_model("weight", weight, len(models))
    densities = one_per_model("density", density, len(models))
    gammas = one_per_model("gamma", gamma, len(models))
    if adds_nothing(lambda_, weights, densities):
        return base.clone()
    deltas = middling_deltas(base, models, densities, gammas, rescale=rescale)
    return add_to_base(base, disjoint_deltas(deltas, weights, normalize=normalize), lambda_)
