"""Consensus merging (Wang 2024, TALL-masks): task arithmetic where several tasks need it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.methods.deltas import sum_in_order
from evomerge.methods.parameters import Lambda, PerModelFloat, Range, one_per_model
from evomerge.methods.registry import merge_method

Votes = Annotated[int, Range(1, 4, valid_low=0)]
PerModelThreshold = Annotated[PerModelFloat, Range(0.2, 0.6, valid_low=0.0)]


@merge_method(reference="Wang 2024, https://arxiv.org/abs/2405.07813")
def consensus_ta(
    base: Tensor,
    models: Sequence[Tensor],
    k: Votes = 2,
    lam: PerModelThreshold = 0.4,
    alpha: Lambda = 1.0,
) -> Tensor:
    """Add the sum of the deltas to the base where it serves at least k of the models.

    d_i = model_i - base,  total = sum_i d_i
    m_i = [ |d_i| >= lam_i |total - d_i| ]
    base + alpha * total * [ sum_i m_i >= k ]

    What serves one model only (selfish) or none (catastrophic) is left out at k = 2. A k of 0 is
    task arithmetic, one above the number of models the base. mergekit 0.1.5 has no such method.

    Args:
        base: Any shape.
        models: Fine-tuned from the base, of its shape.
        k: Least number of models that an element must serve.
        lam: How large a model's own delta must be, against the others' sum, for the element to
            serve it; the larger, the fewer. The paper chooses each of 0.2, 0.3 ... 0.6.
        alpha: Scale of what is added to the base; any finite number; the masks do not depend on
            it.

    >>> import torch
    >>> models = [torch.tensor([1.0, 2.0, 0.1]), torch.tensor([1.0, 0.0, -3.0])]
    >>> consensus_ta(torch.zeros(3), models)
    tensor([2., 0., 0.])
    """
    thresholds = one_per_model("lam", lam, len(models))
    deltas = [model - base for model in models]
    return add_where_it_serves(base, sum_in_order(deltas), deltas, k, thresholds, alpha)


def add_where_it_serves(
    base: Tensor,
    total: Tensor,
    deltas: Sequence[Tensor],
    k: int,
    thresholds: Sequence[float],
    alpha: float,
) -> Tensor:
    """Base + alpha * total where at least k models' masks are set; elsewhere the base's bits."""
    votes = torch.zeros_like(base)
    for delta, threshold in zip(deltas, thresholds, strict=True):
        votes += delta.abs() >= threshold * (total - delta).abs()
    if alpha == 0:
        return base.clone()
    return torch.where(votes >= k, base + alpha * total, base)
