"""A curve between two models (Wen 2023, EOPC) that goes around a barrier on the straight line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.methods.parameters import Count, Doc, Range, SmoothFraction
from evomerge.methods.registry import merge_method

_FREQUENCIES = [math.pi / 2 * (4 * j + 1) for j in range(5)]  # ω_j: cos ω_j = 0, sin ω_j = 1

OfBase = Annotated[
    float,
    Range(-1.0, 1.0, smooth=True),
    Doc("Weight of a cosine in the base's share, less the mean of the five."),
]
OfModel = Annotated[
    float,
    Range(-1.0, 1.0, smooth=True),
    Doc("Weight of a sine in the model's share, less the mean of the five."),
]


@merge_method(reference="Wen 2023, https://proceedings.mlr.press/v202/wen23b.html")
def curve(
    base: Tensor,
    models: Annotated[Sequence[Tensor], Count(1, 1)],
    t: Annotated[SmoothFraction, Doc("Where on the curve: 0 is the base, 1 the model.")],
    a1: OfBase = 0.0,
    a2: OfBase = 0.0,
    a3: OfBase = 0.0,
    a4: OfBase = 0.0,
    a5: OfBase = 0.0,
    b1: OfModel = 0.0,
    b2: OfModel = 0.0,
    b3: OfModel = 0.0,
    b4: OfModel = 0.0,
    b5: OfModel = 0.0,
) -> Tensor:
    """Go along a curve from the base to one model.

    [(1 - t) + Σ_j a_j cos(ω_j t)] base + [t + Σ_j b_j sin(ω_j t)] model
    with ω_j = (π/2)(4j + 1), j = 0 … 4, and Σ_j a_j = Σ_j b_j = 0

    Both sums have to be 0, else the curve misses its ends; here they always are, since the mean of
    the five a (and b) is taken off each. With all of them 0 it is the straight line.

    mergekit 0.1.5 has no such method; at a point it is `linear` of two models without
    normalisation.

    >>> import torch
    >>> a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    >>> curve(a, [b], t=0.25)
    tensor([0.7500, 0.2500])
    """
    of_base, of_model = shares(t, (a1, a2, a3, a4, a5), (b1, b2, b3, b4, b5))
    (model,) = models
    if (of_base, of_model) == (1.0, 0.0):
        return base.clone()
    if (of_base, of_model) == (0.0, 1.0):
        return model.clone()
    return torch.add(base * of_base, model, alpha=of_model)


def shares(t: float, a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Return the factors of both models; (1, 0) and (0, 1) to the bit at the ends."""
    if t in (0, 1):
        return 1.0 - t, float(t)
    of_base, of_model = 1.0 - t, t
    mean_a, mean_b = math.fsum(a) / 5, math.fsum(b) / 5
    for frequency, a_j, b_j in zip(_FREQUENCIES, a, b, strict=True):
        of_base += (a_j - mean_a) * math.cos(frequency * t)
        of_model += (b_j - mean_b) * math.sin(frequency * t)
    return of_base, of_model
