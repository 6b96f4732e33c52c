"""Passthrough takes one model's tensor as it is, or scaled (to stack layers, and for parents)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.methods.parameters import Count, Doc, PerModelFloat, Range, one_per_model
from evomerge.methods.registry import merge_method

PerModelScale = Annotated[
    PerModelFloat,
    Range(0.0, 2.0, smooth=True),
    Doc("What it is multiplied by; any finite number; 1 returns the model's own bits."),
]


@merge_method(
    reference="mergekit, Goddard 2024, https://arxiv.org/abs/2403.13257", in_mergekit=True
)
def passthrough(
    models: Annotated[Sequence[Tensor], Count(1, 1)], scale: PerModelScale = 1.0
) -> Tensor:
    """Take the one model as it is, or scaled.

    scale * model

    Differs from mergekit 0.1.5 in name only: its default, no scale, is 1 here, the same bits.

    >>> import torch
    >>> passthrough([torch.tensor([1.0, -2.0])], scale=0.5)
    tensor([ 0.5000, -1.0000])
    """
    (factor,) = one_per_model("scale", scale, len(models))
    return models[0].clone() if factor == 1 else models[0] * factor
