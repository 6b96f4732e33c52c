"""The Karcher mean (Karcher 1977) is the point on the sphere nearest to all models' directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.core.threads import one_thread
from evomerge.methods.deltas import sum_in_order
from evomerge.methods.parameters import Doc, Range
from evomerge.methods.registry import merge_method

_SMALLEST = 1e-30  # stands in for a tolerance of 0, where an angle of 0 would be divided by
Steps = Annotated[int, Range(1, 50, valid_low=0), Doc("Most steps that are taken.")]
Tolerance = Annotated[
    float,
    Range(1e-8, 1e-3, valid_low=0.0),
    Doc("Steps, angles and norms below it count as nothing."),
]


@merge_method(reference="Karcher 1977, https://doi.org/10.1002/cpa.3160300502", in_mergekit=True)
def karcher(models: Sequence[Tensor], max_iter: Steps = 10, tol: Tolerance = 1e-5) -> Tensor:
    """Take the mean of the models' directions on the sphere, and of their lengths.

    u_i = model_i / |model_i|;  m = sum_i u_i / n, scaled to length 1;  repeat:
        v = sum_i 1/n * a_i / sin(a_i) * (u_i - cos(a_i) m),  cos(a_i) = <m, u_i>
        m = cos|v| m + sin|v| v / |v|
    m * average of |model_i|

    A base model takes part only if it is listed among the models. All models count alike. Models
    of norm up to `tol` give no direction, but count in the length; where directions cancel, the
    first is where the search starts, and so the order of the models matters.

    Differs from mergekit 0.1.5: a tolerance of 0 works (an angle of 0 is no step).

    >>> import torch
    >>> karcher([torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0])])
    tensor([2.1213, 2.1213])
    """
    first = models[0]
    if len(models) == 1 or first.numel() == 0:
        return first.clone()
    with one_thread():
        return _on_sphere(models, max_iter, tol)


def _on_sphere(models: Sequence[Tensor], max_iter: int, tol: float) -> Tensor:
    first = models[0]
    norms = [torch.linalg.vector_norm(model) for model in models]
    units = [
        (model / norm).reshape(-1) for model, norm in zip(models, norms, strict=True) if norm > tol
    ]
    if not units:
        return torch.zeros_like(first)
    length = sum_in_order([norm * (1 / len(models)) for norm in norms])
    return (length * _mean_direction(units, max_iter, max(tol, _SMALLEST))).reshape(first.shape)


def _mean_direction(units: Sequence[Tensor], max_iter: int, tol: float) -> Tensor:
    share = 1 / len(units)
    mean = sum_in_order([unit * share for unit in units])
    length = torch.linalg.vector_norm(mean)
    mean = units[0].clone() if length < tol else mean / length
    for _ in range(max_iter):
        tangent = torch.zeros_like(mean)
        for unit in units:
            cosine = torch.dot(mean, unit).clamp(-1, 1)
            angle = torch.acos(cosine)  # a_i
            if angle >= tol:
                tangent += share * (angle / torch.sin(angle)) * (unit - cosine * mean)  # v
        step = torch.linalg.vector_norm(tangent)  # |v|
        if step < tol:
            break
        mean = torch.cos(step) * mean + torch.sin(step) * (tangent / step)
        length = torch.linalg.vector_norm(mean)
        if length > tol:  # back to the sphere, which rounding leaves
            mean = mean / length
    return mean
