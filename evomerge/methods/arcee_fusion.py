"""Arcee Fusion: take from a model only the elements in which it differs from the base notably."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.core.threads import one_thread
from evomerge.methods.parameters import Count
from evomerge.methods.random import CounterRandom
from evomerge.methods.registry import merge_method

_SAMPLE = 1_000_000  # elements beyond which quartiles are those of a sample of as many
_SMALL = 1e-8  # added to probabilities (mergekit's constant)


@merge_method(
    reference="mergekit, Goddard 2024, https://arxiv.org/abs/2403.13257", in_mergekit=True
)
def arcee_fusion(base: Tensor, models: Annotated[Sequence[Tensor], Count(1, 1)]) -> Tensor:
    """Take the model's element where its importance is an outlier, the base's elsewhere.

    importance = |model - base| * KL(softmax(model) || softmax(base)), each along the last dimension
    threshold  = median + 1.5 * (third quartile - first quartile) of the tensor's importances
    base + (model - base) * [importance >= threshold]

    Differs from mergekit 0.1.5: beyond a million elements the quartiles are those of one fixed
    sample, an element from each of a million equal stretches, rather than of a random one, so that
    a recipe has one result; an empty tensor is merged, to itself.
    """
    (model,) = models
    if base.numel() == 0:
        return base.clone()
    delta = model - base
    with one_thread():  # a vector is a single row
        p = torch.softmax(model, dim=-1) + _SMALL
        q = torch.softmax(base, dim=-1) + _SMALL
        divergence = torch.sum(p * torch.log(p / q), dim=-1, keepdim=True)  # per row
    importance = delta.abs() * divergence  # KL weighs a row, |delta| an element
    first, median, third = _quartiles(importance.reshape(-1))
    return base + delta * (importance >= median + 1.5 * (third - first))


def _quartiles(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the elements a quarter, a half, three quarters up the sorted values, or a sample's."""
    if values.numel() > _SAMPLE:
        values = values[sampled(values.numel()).to(values.device)]
    ordered = values.sort().values
    last = ordered.numel() - 1
    return ordered[last // 4], ordered[last // 2], ordered[last * 3 // 4]


def sampled(count: int) -> Tensor:
    """Draw a million indices below `count`, ascending, one from each of a million stretches."""
    offset = CounterRandom(seed=0, name="arcee_fusion").uniform(0, (_SAMPLE,)).double()
    places = (torch.arange(_SAMPLE, dtype=torch.float64) + offset) * (count / _SAMPLE)
    return places.long().clamp(max=count - 1)
