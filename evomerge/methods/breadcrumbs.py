"""Model Breadcrumbs (Davari 2023): drop each delta's smallest elements, and its outliers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from evomerge.methods.deltas import (
    add_to_base,
    adds_nothing,
    rescale_by_l1,
    trim_outliers,
    weighted_deltas,
)
from evomerge.methods.parameters import (
    Lambda,
    PerModelDensity,
    PerModelOutliers,
    PerModelWeight,
    one_per_model,
)
from evomerge.methods.registry import merge_method


@merge_method(reference="Davari 2023, https://arxiv.org/abs/2312.06795", in_mergekit=True)
def breadcrumbs(
    base: Tensor,
    models: Sequence[Tensor],
    weight: PerModelWeight,
    density: PerModelDensity = 1.0,
    gamma: PerModelOutliers = 0.01,
    normalize: bool = False,
    rescale: bool = False,
    lambda_: Lambda = 1.0,
) -> Tensor:
    """Zero the smallest and the largest elements of each delta, add the weighted sum to the base.

    d_i = model_i - base, without its gamma_i largest magnitudes; of the rest the density_i largest
    base + lambda * sum_i w_i d_i [ / sum_i w_i ]

    As mergekit 0.1.5 does: where density + gamma exceeds 1 fewer outliers go; a density of 1 leaves
    even them; a tensor with fewer than 1 / density elements loses its delta. Masks are per tensor.

    Differs from mergekit 0.1.5: of equal magnitudes the lower index counts as the larger (left open
    there); a lambda of 0, or models that are all of weight or density 0, return the base's own
    bits; sums run in model order for any number of models.

    Args:
        base: Any shape.
        models: Fine-tuned from the base, of its shape.
        weight: How much of each model's delta is added; any finite number.
        density: Part of each delta's elements that is kept.
        gamma: Part of each delta's elements, those of largest magnitude, that is dropped.
        normalize: Divide by the sum of the weights, unless its magnitude is below 1e-8.
        rescale: Give what is left of each delta the L1 norm that it had.
        lambda_: Scale of what is added to the base; any finite number.

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
    deltas = middling_deltas(base, models, densities, gammas, rescale=rescale)
    return add_to_base(base, weighted_deltas(deltas, weights, normalize=normalize), lambda_)


def middling_deltas(
    base: Tensor,
    models: Sequence[Tensor],
    densities: Sequence[float],
    gammas: Sequence[float],
    *,
    rescale: bool,
) -> list[Tensor]:
    """Each model's delta without its smallest elements and its outliers."""
    deltas = []
    for model, density, gamma in zip(models, densities, gammas, strict=True):
        delta = model - base
        kept = trim_outliers(delta, density, gamma)
        deltas.append(rescale_by_l1(kept, delta) if rescale and density < 1 else kept)
    return deltas
