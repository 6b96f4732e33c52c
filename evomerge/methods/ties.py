"""TIES-merging (Yadav 2023): trim, elect a sign, average what agrees."""

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
from evomerge.methods.deltas import rescale as rescaled
from evomerge.methods.parameters import Lambda, PerModelDensity, PerModelWeight, one_per_model
from evomerge.methods.registry import merge_method


@merge_method(reference="Yadav 2023, https://arxiv.org/abs/2306.01708", in_mergekit=True)
def ties(
    base: Tensor,
    models: Sequence[Tensor],
    weight: PerModelWeight,
    density: PerModelDensity = 1.0,
    normalize: bool = True,
    rescale: bool = False,
    lambda_: Lambda = 1.0,
    consensus: Consensus = "sum",
    aggregate: Aggregate = "mean",
    zero_sign: ZeroSign = "plus",
) -> Tensor:
    """Trim the deltas, elect a sign per element, average the deltas that agree.

    d_i  = w_i * trim(model_i - base, density_i)
    sign = +1 where sum_i d_i >= 0, else -1
    base + lambda * sum_{i: sign(d_i) = sign} d_i [ / sum_{i: sign(d_i) = sign} w_i ]

    As mergekit 0.1.5 does and the paper does not: deltas are weighted before the election (so a
    negative weight turns a vote round), a tie elects +1 rather than the majority's sign (but see
    `zero_sign`), and trimming is per tensor rather than over the whole model. With negative
    weights and `normalize` the divisor can come close to 0, and the result grows without bound.

    Differs from mergekit 0.1.5: of equal magnitudes at the trimming threshold the lowest index is
    kept (mergekit leaves it open); a lambda of 0, or models that are all of weight or density 0,
    return the base's own bits; sums run in model order for any number of models (mergekit's depend
    on the position of the element from five models on, in the last bit); `consensus`, `aggregate`
    and `zero_sign`, of which mergekit has the defaults.

    Args:
        base: Any shape.
        models: Fine-tuned from the base, of its shape.
        weight: How much of each model's delta is added, and how much its sign counts; any finite
            number.
        density: Part of each delta's elements that is kept, those of largest magnitude: 0 keeps
            none, more than 0 at least one, 1 all.
        normalize: Divide each element by the sum of the weights that agree there.
        rescale: Give each trimmed delta back the L1 norm that it had.
        lambda_: Scale of what is added to the base; any finite number.
        consensus: What is summed up to elect a sign: the deltas (``sum``), or their signs
            (``count``: one model, one vote).
        aggregate: What is made of the deltas that agree: their ``mean``, which is their sum unless
            `normalize`, their ``sum``, or the one of largest magnitude (``max``).
        zero_sign: What a tie elects: +1 (``plus``), or the sign that most elements of the tensor
            elect (``majority``; the paper's, there over the whole model).

    >>> import torch
    >>> base = torch.zeros(3)
    >>> one, two = torch.tensor([1.0, 3.0, 0.1]), torch.tensor([3.0, -1.0, 0.2])
    >>> ties(base, [one, two], weight=1.0, density=0.67)
    tensor([2., 3., 0.])
    """
    weights = one_per_model("weight", weight, len(models))
    densities = one_per_model("density", density, len(models))
    if adds_nothing(lambda_, weights, densities):
        return base.clone()
    deltas = []
    for model, density_i in zip(models, densities, strict=True):
        delta = model - base
        trimmed = trim(delta, density_i)
        deltas.append(rescaled(trimmed, delta, density_i, "l1") if rescale else trimmed)
    mixed = disjoint_deltas(
        deltas,
        weights,
        normalize=normalize,
        consensus=consensus,
        aggregate=aggregate,
        zero_sign=zero_sign,
    )
    return add_to_base(base, mixed, lambda_)
