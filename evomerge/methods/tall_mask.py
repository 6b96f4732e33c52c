"""TALL masks (Wang 2024): a merge cut back to what serves one task, or some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.methods.consensus_ta import PerModelThreshold
from evomerge.methods.deltas import sum_in_order
from evomerge.methods.parameters import PerModelFloat, Range, one_per_model
from evomerge.methods.registry import merge_method

PerModelChoice = Annotated[PerModelFloat, Range(0.0, 1.0, valid_low=0.0)]


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

    With one model to serve it is the paper's reconstruction of that model from the merge and one
    bit an element; with all of them, `consensus_ta` at k = 1. mergekit 0.1.5 has no such method.

    Args:
        base: Any shape.
        models: Fine-tuned from the base, of its shape; all are in the sum.
        serve: Above 0 for the models whose masks count, 0 for the others.
        lam: How large a model's own delta must be, against the others' sum, for the element to
            serve it; the larger, the fewer. The paper chooses each of 0.2, 0.3 ... 0.6.

    >>> import torch
    >>> models = [torch.tensor([1.0, 2.0, 0.0]), torch.tensor([0.0, 0.0, -3.0])]
    >>> tall_mask(torch.zeros(3), models, serve=[1.0, 0.0])
    tensor([1., 2., 0.])
    """
    chosen = one_per_model("serve", serve, len(models))
    thresholds = one_per_model("lam", lam, len(models))
    deltas = [model - base for model in models]
    total = sum_in_order(deltas)
    mask = torch.zeros_like(base, dtype=torch.bool)
    for delta, wanted, threshold in zip(deltas, chosen, thresholds, strict=True):
        if wanted > 0:
            mask |= delta.abs() >= threshold * (total - delta).abs()
    return torch.where(mask, base + total, base)
