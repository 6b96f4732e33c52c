"""Describes what a model's own rows of data say of its weights, as methods are given it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from evomerge.methods.parameters import Doc, PerModelFloat, Range, one_per_model

PerModelImportance = Annotated[
    PerModelFloat,
    Range(0.0, 1.0, valid_low=0.0, smooth=True),
    Doc("How much each model's data count; 0 leaves a model out."),
]


class Gram(NamedTuple):
    """The mean over tokens of x x^T, where x is what a linear layer's weight multiplies.

    Attributes:
        matrix: Of shape (inputs, inputs), float32.
        transposed: Whether the weight is stored as (inputs, outputs), as GPT-2's are.
    """

    matrix: Tensor
    transposed: bool = False


class Squares(NamedTuple):
    """The mean over rows of a loss's squared gradient by one tensor (a diagonal Fisher).

    Attributes:
        values: Of the tensor's shape, float32, 0 or more.
        norm: The Euclidean norm of the squares of the whole model.
        mean: Their mean over the whole model.
    """

    values: Tensor
    norm: float
    mean: float


class Direction(NamedTuple):
    """The mean over tokens of x / |x|, where x is what a linear layer's weight multiplies.

    Attributes:
        values: Of shape (inputs,), float32.
    """

    values: Tensor


# Returns what `make` returned for that name and version before, as far as memory allows.
Recall = Callable[[str, Hashable, Callable[[], Tensor]], Tensor]


def made_anew(name: str, version: Hashable, make: Callable[[], Tensor]) -> Tensor:
    """Recall nothing: make a tensor each time it is asked for."""
    del name, version
    return make()


def weighted_mean(models: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return sum_i w_i model_i / sum_i w_i, exactly the model where all are equal.

    Args:
        models: Tensors of one shape.
        weights: 0 or more each; not all 0.
    """
    total = sum(weights)
    mean = models[0].clone()
    for model, weight in zip(models[1:], weights[1:], strict=True):
        mean += (model - models[0]) * (weight / total)
    return mean


def importances(weight: PerModelFloat, count: int) -> list[float]:
    """Return the weight of each model."""
    return one_per_model("weight", weight, count)


def from_base(base: Tensor | None, merged: Tensor, lambda_: float) -> Tensor:
    """Return base + lambda (merged - base); a base that is not there is one of zeros."""
    if lambda_ == 1:
        return merged
    if base is None:
        return merged * lambda_
    return base + (merged - base) * lambda_


def nothing(base: Tensor | None, models: Sequence[Tensor]) -> Tensor:
    """Return what a merge of models that all count 0 is: the base, or zeros without one."""
    return torch.zeros_like(models[0]) if base is None else base.clone()
