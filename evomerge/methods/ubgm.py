"""UBGM (Daheim 2024) scales each change by how sure its model is of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.methods.of_data import Squares
from evomerge.methods.parameters import Doc, PerModelFloat, Range, one_per_model
from evomerge.methods.registry import merge_method

PerModelStep = Annotated[
    PerModelFloat,
    Range(0.0, 1.0, smooth=True),
    Doc("How much of each model's scaled change is added; below 0 takes it away."),
]
Delta = Annotated[
    float,
    Range(1e-4, 1e2, valid_low=0.0, valid_high=1e6),
    Doc("Added to every element's squares, in parts of the models' mean; large: plain sums."),
]
Prior = Annotated[
    float,
    Range(0.0, 1.0, valid_low=0.0, valid_high=1e6, smooth=True),
    Doc("Scale of the base's squares, which count as 0 where the base has no data."),
]


@merge_method(reference="Daheim 2024, https://arxiv.org/abs/2310.12808")
def ubgm(
    base: Tensor,
    models: Sequence[Tensor],
    weight: PerModelStep = 1.0,
    delta: Delta = 1.0,
    h0: Prior = 1.0,
    fisher: Sequence[Squares] | None = None,
    base_fisher: Squares | None = None,
) -> Tensor:
    """Add the models' changes, each element scaled by squared gradients of each model's rows.

    base + sum_i a_i (H_0 + H_i + d) / (H_0 + sum_j a_j H_j + d) (model_i - base)

    a is `weight`; H_i are the mean squared gradients of model i's rows, as they are; H_0 are those
    of the base's rows times `h0`, or 0 where the base has none; d is `delta` times the mean of all
    H_i over all models' elements (the paper's is absolute). With all H at 0, or d large, this is
    task arithmetic; with H_0 and d at 0, Fisher merging without its norms. Where a denominator
    is 0, the fraction is 1. mergekit 0.1.5 has no such method.

    >>> H = [Squares(torch.tensor([3.0]), 3.0, 3.0), Squares(torch.tensor([1.0]), 1.0, 1.0)]
    >>> ubgm(torch.zeros(1), [torch.tensor([4.0]), torch.tensor([8.0])], delta=0.0, fisher=H)
    tensor([5.])
    """
    steps = one_per_model("weight", weight, len(models))
    if fisher is None:
        fisher = [Squares(torch.zeros_like(base), 0.0, 0.0) for _ in models]
    level = delta * sum(squares.mean for squares in fisher) / len(fisher)
    shared = torch.full_like(base, level)
    if base_fisher is not None:
        shared += h0 * base_fisher.values.to(base.dtype)
    below = shared.clone()
    for squares, step in zip(fisher, steps, strict=True):
        below += step * squares.values.to(base.dtype)
    merged = base.clone()
    for model, squares, step in zip(models, fisher, steps, strict=True):
        above = shared + squares.values.to(base.dtype)
        share = torch.where(below != 0, above / torch.where(below != 0, below, 1.0), 1.0)
        merged += step * share * (model - base)
    return merged
