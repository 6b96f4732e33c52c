"""Model Stock (Jang 2024): the angles between models say how far to go from the base."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Annotated

import torch
from torch import Tensor

from evomerge.core.threads import one_thread
from evomerge.methods.deltas import sum_in_order
from evomerge.methods.parameters import Count, Doc
from evomerge.methods.registry import merge_method

_SMALL = 1e-6  # product of norms, or denominator, below which the ratio means nothing (mergekit's)


@merge_method(reference="Jang 2024, https://arxiv.org/abs/2403.19522", in_mergekit=True)
def model_stock(
    base: Tensor,
    models: Annotated[Sequence[Tensor], Count(2)],
    filter_wise: Annotated[
        bool,
        Doc(
            "Take the angle of each row (along the last dimension; a vector is one row), not of "
            "the tensor as a whole."
        ),
    ] = False,
) -> Tensor:
    """Interpolate between the base and the models' average, by how much the models agree.

    c = mean over pairs of cos(model_i - base, model_j - base)
    t = n c / (1 + (n - 1) c)
    t * average + (1 - t) * base

    Deltas at right angles give the base, identical ones their model. As mergekit 0.1.5 does: the
    cosines are averaged (the paper covers two models), t is not clamped, so that c < 0 goes away
    from the average, and a denominator below 1e-6 gives t = 0.

    Differs from mergekit 0.1.5: a tensor with no dimension counts as one row if `filter_wise`.

    >>> import torch
    >>> base, one, two = torch.zeros(2), torch.tensor([1.0, 0.0]), torch.tensor([0.6, 0.8])
    >>> model_stock(base, [one, two])  # c = 0.6, t = 0.75
    tensor([0.6000, 0.3000])
    """
    shape = base.shape
    rows = (-1, shape[-1]) if filter_wise and len(shape) > 1 else (1, -1)
    if base.numel() == 0:
        return base.clone()
    origin = base.reshape(rows)  # (rows, columns)
    points = [model.reshape(rows) for model in models]
    deltas = [point - origin for point in points]
    with one_thread():
        cosine = torch.stack([_cosine(a, b) for a, b in combinations(deltas, 2)]).mean(dim=0)  # c
    n = len(models)
    denominator = 1 + (n - 1) * cosine  # (rows, 1)
    singular = denominator.abs() < _SMALL
    t = torch.where(singular, 0.0, n * cosine / torch.where(singular, 1.0, denominator))
    average = sum_in_order(points) / n
    return (t * average + (1 - t) * origin).reshape(shape)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of each pair of rows, 0 where a row is ~ 0; (rows, d) to (rows, 1)."""
    norms = torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1)
    products = (a * b).sum(dim=-1)
    return torch.clamp(products / norms.clamp(min=_SMALL), -1, 1).unsqueeze(-1)
