"""TIES-merging (Yadav 2023): trim what each model changed, elect a sign, average what agrees.

`ties` trims tensor by tensor, as mergekit does, `ties_global` over the whole model, as the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

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
from evomerge.methods.parameters import (
    Doc,
    L1Rescale,
    Lambda,
    NormalizeAgreeing,
    PerModelDensity,
    PerModelFloat,
    PerModelVote,
    Range,
    one_per_model,
)
from evomerge.methods.registry import merge_method

SignConsensus = Annotated[
    Consensus,
    Doc(
        "What is summed up to elect a sign: the deltas (``sum``), or their signs "
        "(``count``: one model, one vote)."
    ),
]
PerModelElector = Annotated[  # not smooth: what trims over the whole model runs in float32 alone
    PerModelFloat,
    Range(0.0, 1.0),
    Doc(
        "How much of each model's delta is added, and how much its sign counts; any finite number."
    ),
]
AgreeingAggregate = Annotated[
    Aggregate,
    Doc(
        "What is made of the deltas that agree: their ``mean``, which is their sum unless "
        "`normalize`, their ``sum``, or the one of largest magnitude (``max``)."
    ),
]
TieBreak = Annotated[
    ZeroSign,
    Doc(
        "What a tie elects: +1 (``plus``), or the sign that most elements of the tensor "
        "elect (``majority``; the paper's, there over the whole model)."
    ),
]


@merge_method(reference="Yadav 2023, https://arxiv.org/abs/2306.01708", in_mergekit=True)
def ties(
    base: Tensor,
    models: Sequence[Tensor],
    weight: PerModelVote,
    density: PerModelDensity = 1.0,
    normalize: NormalizeAgreeing = True,
    rescale: L1Rescale = False,
    lambda_: Lambda = 1.0,
    consensus: SignConsensus = "sum",
    aggregate: AgreeingAggregate = "mean",
    zero_sign: TieBreak = "plus",
) -> Tensor:
    """Trim the deltas, elect a sign per element, average the deltas that agree.

    d_i  = w_i * trim(model_i - base, density_i)
    sign = +1 where sum_i d_i >= 0, else -1
    base + lambda * sum_{i: sign(d_i) = sign} d_i [ / sum_{i: sign(d_i) = sign} w_i ]

    As mergekit 0.1.5 does and the paper does not: deltas are weighted before the election (so a
    negative weight turns a vote round), a tie elects +1 rather than the majority's sign (but see
    `zero_sign`), and trimming is per tensor rather than over the whole model. With negative
    weights and `normalize` the divisor can come close to 0, and the result grows without bound.

    Differs from mergekit 0.1.5: which of equal magnitudes at the trimming threshold are kept is
    left open there; here a fixed hash decides, for runs of 128 elements, so that no row is
    preferred (bfloat16 models have a tenth of their changes at the threshold); a lambda of 0, or
    models that are all of weight or density 0, return the base's own bits; sums run in model order
    for any number of models (mergekit's depend on the position of the element from five models on,
    in the last bit); `consensus`, `aggregate` and `zero_sign`, of which mergekit has the defaults.

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
    trimmed = []
    for model, density_i in zip(models, densities, strict=True):
        delta = model - base
        rest = trim(delta, density_i)  # step 1
        trimmed.append(rescaled(rest, delta, density_i, "l1") if rescale else rest)
    mixed = disjoint_deltas(  # steps 2 and 3
        trimmed,
        weights,
        normalize=normalize,
        consensus=consensus,
        aggregate=aggregate,
        zero_sign=zero_sign,
    )
    return add_to_base(base, mixed, lambda_)


@merge_method(reference="Yadav 2023, https://arxiv.org/abs/2306.01708")
def ties_global(
    base: Tensor,
    models: Sequence[Tensor],
    weight: PerModelElector = 1.0,
    density: Annotated[
        PerModelDensity,
        Doc("Part of each model's elements that is kept, those of largest magnitude."),
    ] = 0.2,
    normalize: NormalizeAgreeing = True,
    lambda_: Lambda = 1.0,
    consensus: SignConsensus = "sum",
    aggregate: AgreeingAggregate = "mean",
    zero_sign: TieBreak = "majority",
    thresholds: Sequence[float] | None = None,
) -> Tensor:
    """Trim the deltas to the largest of the whole model, elect a sign, average what agrees.

    d_i  = w_i * (model_i - base) * [ |model_i - base| >= t_i ]
    sign = the sign of sum_i d_i, that of the majority where the sum is 0
    base + lambda * sum_{i: sign(d_i) = sign} d_i [ / sum_{i: sign(d_i) = sign} w_i ]

    t_i is the magnitude that the part density_i of all elements of the model has or exceeds:
    tensors that changed much keep more than that part, others less. `ties` keeps it in each. Where
    several elements are exactly at the threshold, all are kept. The majority is that of the tensor
    (the paper's is that of the model). Without `thresholds`, the t_i, the tensor is taken for the
    whole model. mergekit 0.1.5 has no such method.

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
