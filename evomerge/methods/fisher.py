"""Fisher merging (Matena 2022) weighs every element by how much each model's loss depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.methods.of_data import (
    PerModelImportance,
    Squares,
    from_base,
    importances,
    nothing,
    weighted_mean,
)
from evomerge.methods.parameters import Doc, Lambda, Range
from evomerge.methods.registry import merge_method

Floor = Annotated[
    float,
    Range(1e-8, 1e-2, valid_low=0.0, valid_high=1e6),
    Doc("What is added to every element, in parts of the model's mean."),
]


@merge_method(reference="Matena 2022, https://arxiv.org/abs/2111.09832")
def fisher(
    base: Tensor | None,
    models: Sequence[Tensor],
    weight: PerModelImportance = 1.0,
    lambda_: Lambda = 1.0,
    floor: Floor = 1e-6,
    fisher: Sequence[Squares] | None = None,
) -> Tensor:
    """Average the models, each element weighted by the squared gradients of each model's own rows.

    merged = sum_i w_i F_i model_i / sum_i w_i F_i,    base + lambda (merged - base)

    F_i is the mean over rows of the squared gradient of a row's mean negative log-likelihood, one
    row at a time, divided by the Euclidean norm of the whole model's, plus `floor` times the
    whole model's mean. Where all F are 0 the mean, weighted by w, stands. `lambda` is not the
    paper's, and a base is needed for it alone; without one it scales what is merged. The floor is
    relative, where the paper's 1e-6 is absolute, and larger than most elements of a language
    model. If all weights are 0, the base stays. With the posterior's weights this is mode-IMM (Lee
    2017). mergekit 0.1.5 has no such method; MergeLM and FusionBench square the sum of a batch's
    gradients, which is another thing.

    >>> a, b = torch.tensor([4.0, 4.0]), torch.tensor([0.0, 2.0])
    >>> of_a, of_b = Squares(a * 0.75, 3.0, 3.0), Squares(torch.tensor([1.0, 0.0]), 1.0, 0.5)
    >>> fisher(None, [a, b], floor=0.0, fisher=[of_a, of_b])
    tensor([2., 4.])
    """
    weights = importances(weight, len(models))
    if not any(weights):
        return nothing(base, models)
    mean = weighted_mean(models, weights)
    if fisher is None:
        return from_base(base, mean, lambda_)
    above = torch.zeros_like(mean)
    below = torch.zeros_like(mean)
    for model, squares, share in zip(models, fisher, weights, strict=True):
        if squares.norm > 0:
            values = squares.values.to(mean.dtype) / squares.norm
            values += floor * squares.mean / squares.norm
            values *= share
            above += values * (model - mean)
            below += values
    step = torch.where(below > 0, above / torch.where(below > 0, below, 1.0), 0.0)
    return from_base(base, mean + step, lambda_)
