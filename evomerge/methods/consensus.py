"""TALL masks (Wang 2024): cut a merge back to the elements that serve a task, or several tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.methods.deltas import disjoint_deltas, sum_in_order, trim
from evomerge.methods.parameters import (
    Doc,
    Lambda,
    PerModelDensity,
    PerModelFloat,
    Range,
    one_per_model,
)
from evomerge.methods.registry import merge_method

Votes = Annotated[
    int,
    Range(1, 4, valid_low=0),
    Doc("Least number of models that an element must serve."),
]
PerModelThreshold = Annotated[
    PerModelFloat,
    Range(0.2, 0.6, valid_low=0.0),
    Doc(
        "How large a model's own delta must be, against the rest of the total, for the element to "
        "serve it; the larger, the fewer. The paper chooses each of 0.2, 0.3 ... 0.6."
    ),
]
PerModelChoice = Annotated[
    PerModelFloat,
    Range(0.0, 1.0, valid_low=0.0),
    Doc("Above 0 for the models whose masks count, 0 for the others."),
]
MaskedLambda = Annotated[
    Lambda,
    Doc("Scale of what is added to the base; any finite number; the masks do not depend on it."),
]


@merge_method(reference="Wang 2024, https://arxiv.org/abs/2405.07813")
def consensus_ta(
    base: Tensor,
    models: Sequence[Tensor],
    k: Votes = 2,
    lam: PerModelThreshold = 0.4,
    alpha: MaskedLambda = 1.0,
) -> Tensor:
    """Add the sum of the deltas to the base where it serves at least k of the models.

    d_i = model_i - base,  total = sum_i d_i
    m_i = [ |d_i| >= lam_i |total - d_i| ]
    base + alpha * total * [ sum_i m_i >= k ]

    What serves one model only (selfish) or none (catastrophic) is left out at k = 2. A k of 0 is
    task arithmetic, one above the number of models the base. mergekit 0.1.5 has no such method.

    >>> import torch
    >>> models = [torch.tensor([1.0, 2.0, 0.1]), torch.tensor([1.0, 0.0, -3.0])]
    >>> consensus_ta(torch.zeros(3), models)
    tensor([2., 0., 0.])
    """
    deltas = [model - base for model in models]
    total = sum_in_order(deltas)
    return _add_where_it_serves(base, total, _masks(deltas, total, lam), k, alpha)


@merge_method(reference="Wang 2024, https://arxiv.org/abs/2405.07813")
def consensus_ties(
    base: Tensor,
    models: Sequence[Tensor],
    density: Annotated[
        PerModelDensity,
        Doc("Part of each delta's elements that TIES keeps; the masks compare whole deltas."),
    ] = 0.2,
    k: Votes = 2,
    lam: PerModelThreshold = 0.4,
    alpha: MaskedLambda = 1.0,
) -> Tensor:
    """Add a TIES merge of the deltas to the base where it serves at least k of the models.

    d_i   = model_i - base
    total = TIES' sum of the trimmed d_i that have the elected sign
    m_i   = [ |d_i| >= lam_i |total - d_i| ]
    base + alpha * total * [ sum_i m_i >= k ]

    A k of 0 is `ties` of weight 1 with its aggregate ``sum``, one above the number of models the
    base. mergekit 0.1.5 has no such method.
    """
    densities = one_per_model("density", density, len(models))
    deltas = [model - base for model in models]
    trimmed = [trim(delta, part) for delta, part in zip(deltas, densities, strict=True)]
    total = disjoint_deltas(trimmed, [1.0] * len(models), normalize=False)
    return _add_where_it_serves(base, total, _masks(deltas, total, lam), k, alpha)


@merge_method(reference="Wang 2024, https://arxiv.org/abs/2405.07813")
def tall_mask(
    base: Tensor,
    models: Sequence[Tensor],
    serve: PerModelChoice = 1.0,
    lam: PerModelThreshold = 0.4,
) -> Tensor:
    """Add the sum of all deltas to the base where it serves a model that is to be served.

    d_i = model_i - base,  total = sum_i d_i
    m_i = [ |d_i| >= lam_i |total - d_i| ]
    base + total * [ any m_i with serve_i > 0 ]

    All models are in the sum. With one model to serve it is the paper's reconstruction of that
    model from the merge and one bit an element; with all of them, `consensus_ta` at k = 1.
    mergekit 0.1.5 has no such method.

    >>> import torch
    >>> models = [torch.tensor([1.0, 2.0, 0.0]), torch.tensor([0.0, 0.0, -3.0])]
    >>> tall_mask(torch.zeros(3), models, serve=[1.0, 0.0])
    tensor([1., 2., 0.])
    """
    chosen = one_per_model("serve", serve, len(models))
    deltas = [model - base for model in models]
    total = sum_in_order(deltas)
    served = torch.zeros_like(base, dtype=torch.bool)
    for mask, wanted in zip(_masks(deltas, total, lam), chosen, strict=True):
        if wanted > 0:
            served |= mask
    return torch.where(served, base + total, base)


def _masks(deltas: Sequence[Tensor], total: Tensor, lam: PerModelFloat) -> list[Tensor]:
    """Make each model's TALL mask: where its delta is large against the rest of the total."""
    thresholds = one_per_model("lam", lam, len(deltas))
    return [
        delta.abs() >= threshold * (total - delta).abs()  # m_i
        for delta, threshold in zip(deltas, thresholds, strict=True)
    ]


def _add_where_it_serves(
    base: Tensor, total: Tensor, masks: Sequence[Tensor], k: int, alpha: float
) -> Tensor:
    """Add alpha * total where at least k masks are set; elsewhere keep the base's own bits."""
    if alpha == 0:
        return base.clone()
    votes = sum_in_order([mask.to(base.dtype) for mask in masks])
    return torch.where(votes >= k, base + alpha * total, base)
