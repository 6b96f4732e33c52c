"""Linear merging (Wortsman 2022, "model soups") takes the weighted average of the models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.core.errors import UserError
from evomerge.methods.parameters import Doc, PerModelShare, one_per_model
from evomerge.methods.registry import merge_method


@merge_method(reference="Wortsman 2022, https://arxiv.org/abs/2203.05482", in_mergekit=True)
def linear(
    models: Sequence[Tensor],
    weight: PerModelShare,
    normalize: Annotated[bool, Doc("Divide by the sum of the weights.")] = True,
) -> Tensor:
    """Average the models, weighted.

    sum_i w_i model_i [ / sum_i w_i ]

    A base model takes part only if it is listed among the models.

    Differs from mergekit 0.1.5: `normalize` with weights that sum to 0 is an error rather than
    nan or infinity.

    >>> import torch
    >>> linear([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0])], weight=[3.0, 1.0])
    tensor([1.5000, 3.0000])
    """
    first = models[0]
    numbers = one_per_model("weight", weight, len(models))
    weights = torch.tensor(numbers, dtype=first.dtype, device=first.device)  # (n,)
    total = weights.sum()
    if normalize and total == 0:
        raise UserError(
            f"linear: expected weights whose sum is not 0, but got {numbers}: "
            "change a weight, or set normalize to false"
        )
    merged = torch.zeros_like(first)
    for model, w in zip(models, weights, strict=True):
        merged.addcmul_(model, w)  # rounds once where the machine has a fused multiply-add
    return merged.div_(total) if normalize else merged
