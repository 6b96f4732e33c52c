"""VaRM (Wan 2024, FuseChat): weigh each model, tensor by tensor, by how much it changed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from evomerge.methods.deltas import energy_shares, sum_in_order
from evomerge.methods.registry import merge_method


@merge_method(reference="Wan 2024, https://arxiv.org/abs/2402.16107")
def varm(base: Tensor, models: Sequence[Tensor]) -> Tensor:
    """Average the models, weighted by the mean squares of their deltas.

    d_i = model_i - base,  s_i = mean(d_i^2) / sum_j mean(d_j^2)
    base + sum_i s_i d_i

    The shares are those of the tensor, and equal where no model changed it. As their sum is 1, this
    is sum_i s_i model_i. mergekit 0.1.5 has no such method.

    >>> import torch
    >>> varm(torch.zeros(2), [torch.tensor([1.0, 1.0]), torch.tensor([3.0, -3.0])])
    tensor([ 2.8000, -2.6000])
    """
    if base.numel() == 0:
        return base.clone()
    deltas = [model - base for model in models]
    shares = energy_shares(deltas)
    return base + sum_in_order([d * share for d, share in zip(deltas, shares, strict=True)])
