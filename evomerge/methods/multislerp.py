"""Multi-SLERP (Goddard 2025) takes a weighted mean of directions on the sphere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.core.errors import UserError
from evomerge.core.threads import one_thread
from evomerge.methods.deltas import sum_in_order
from evomerge.methods.parameters import Doc, PerModelShare, Range, one_per_model
from evomerge.methods.registry import merge_method

Small = Annotated[
    float,
    Range(1e-12, 1e-6, valid_low=1e-12),
    Doc("Length below which directions have cancelled; also added to what is divided by."),
]


@merge_method(
    reference="Goddard 2025, https://goddard.blog/posts/multislerp-wow-what-a-cool-idea",
    in_mergekit=True,
)
def multislerp(
    base: Tensor | None,
    models: Sequence[Tensor],
    weight: PerModelShare,
    normalize_weights: Annotated[bool, Doc("Divide the weights by their sum.")] = True,
    eps: Small = 1e-8,
) -> Tensor:
    """Average directions on the sphere, and lengths, of the models or of their deltas.

    d_i = model_i - base (model_i itself without a base),  u_i = d_i / |d_i|
    m   = sum_i w_i u_i, scaled to length 1
    v   = sum_i w_i (u_i - <u_i, m> m)                     a tangent at m
    base + (cos|v| m + sin|v| v / |v|) * sum_i w_i |d_i|

    One step of the Karcher mean from m. A single model is returned as it is.

    Differs from mergekit 0.1.5: where the weighted directions cancel, the weighted sum of the d_i
    is taken for any number of models (mergekit fails from three models on, and so for any tensor
    that no fine-tuning changed); weights that sum to 0 are an error if they are to be normalized;
    sums run in model order.

    >>> import torch
    >>> one, two = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0])
    >>> multislerp(None, [one, two], weight=0.5)
    tensor([2.1213, 2.1213])
    """
    first = models[0]
    numbers = one_per_model("weight", weight, len(models))
    if len(models) == 1 or first.numel() == 0:
        return first.clone()
    weights = torch.tensor(numbers, dtype=first.dtype, device=first.device)  # (n,)
    if normalize_weights:
        total = weights.sum()
        if total == 0:
            raise UserError(
                f"multislerp: expected weights whose sum is not 0, but got {numbers}: "
                "change a weight, or set normalize_weights to false"
            )
        weights = weights / total
    points = [(model if base is None else model - base).reshape(-1) for model in models]
    with one_thread():
        merged = _mean_on_sphere(points, weights, eps).reshape(first.shape)
    return merged if base is None else base + merged


def _mean_on_sphere(points: Sequence[Tensor], weights: Tensor, eps: float) -> Tensor:
    norms = torch.stack([torch.linalg.vector_norm(point) for point in points])  # (n,)
    units = [point / (norm + eps) for point, norm in zip(points, norms, strict=True)]
    center = _weighted(units, weights)
    length: Tensor = torch.linalg.vector_norm(center)
    if length < eps:
        return _weighted(points, weights)
    center = center / length  # m
    tangent = _weighted([unit - (unit * center).sum() * center for unit in units], weights)  # v
    angle = torch.linalg.vector_norm(tangent) + eps  # |v|
    direction: Tensor = center * torch.cos(angle) + tangent * (torch.sin(angle) / angle)
    return direction * (norms * weights).sum()


def _weighted(points: Sequence[Tensor], weights: Tensor) -> Tensor:
    return sum_in_order([point * w for point, w in zip(points, weights, strict=True)])
