"""NearSwap (alchemonaut 2024): take the model where it is near the base, lean to it elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.methods.parameters import Count, Doc, Range
from evomerge.methods.registry import merge_method

_SMALL = 1e-6  # distances below it are taken for it (mergekit's constant)
Reach = Annotated[
    float,
    Range(0.0, 0.01, valid_low=0.0),
    Doc("How far an element may move, in the unit of the weights."),
]


@merge_method(
    reference="alchemonaut 2024, https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    in_mergekit=True,
)
def nearswap(base: Tensor, models: Annotated[Sequence[Tensor], Count(1, 1)], t: Reach) -> Tensor:
    """Move every element of the base towards the model, by t at most.

    s = min(1, t / |model - base|)
    s * model + (1 - s) * base

    Elements nearer than t are the model's; the others move by t.

    Differs from mergekit 0.1.5: a negative t is an error (there it is the base).

    >>> import torch
    >>> nearswap(torch.zeros(3), [torch.tensor([0.1, 0.5, -2.0])], t=0.5)
    tensor([ 0.1000,  0.5000, -0.5000])
    """
    (model,) = models
    share = (t / (base - model).abs().clamp(min=_SMALL)).clamp(max=1)
    return share * model + (1 - share) * base
