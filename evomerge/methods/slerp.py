"""Spherical linear interpolation (Shoemake 1985): walk the arc from the base to one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.core.threads import one_thread
from evomerge.methods.parameters import Count, Doc, SmoothFraction
from evomerge.methods.registry import merge_method

_BLOCK = 2**20  # elements whose statistics are summed at a time: bounds scratch memory at ~ 12 MB
_PARALLEL = 0.9995  # cosine beyond which the arc is taken as a line (mergekit's constant)
_SMALL_NORM = 1e-8  # norm below which a tensor has no direction (mergekit's constant)


@merge_method(reference="Shoemake 1985, https://doi.org/10.1145/325165.325242", in_mergekit=True)
def slerp(
    base: Tensor,
    models: Annotated[Sequence[Tensor], Count(1, 1)],
    t: Annotated[
        SmoothFraction, Doc("Where on the arc: 0 is the base, 1 the model, both to the bit.")
    ],
) -> Tensor:
    """Interpolate along the arc between the base and one model, each tensor as one vector.

    cos(a) = <base, model> / (|base| |model|)
    sin((1-t) a) / sin(a) * base + sin(t a) / sin(a) * model

    Near-parallel and near-antiparallel pairs, |cos(a)| > 0.9995, are interpolated in a straight
    line, where antiparallel ones pass through zero; a tensor of norm up to 1e-8 has cos(a) = 0.

    Differs from mergekit 0.1.5: t outside [0, 1] is an error.

    >>> import torch
    >>> slerp(torch.tensor([1.0, 0.0]), [torch.tensor([0.0, 1.0])], t=0.5)
    tensor([0.7071, 0.7071])
    """
    (model,) = models
    if t == 0:
        return base.clone()
    if t == 1:
        return model.clone()
    precise = torch.promote_types(base.dtype, torch.float32)
    between = cosine(base.reshape(-1), model.reshape(-1)).to(precise)  # ()
    of_base, of_model = arc_weights(between, t)
    return of_base * base + of_model * model


def arc_weights(cosine: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Return the factors of base and model, both of shape (); at least in float32.

    In half precision .9995 would be 1, which no cosine exceeds.
    """
    fraction = torch.tensor(t, dtype=cosine.dtype, device=cosine.device)
    straight = cosine.abs() > _PARALLEL
    angle = torch.acos(cosine)  # a
    sine = torch.sin(angle)
    return (
        torch.where(straight, 1 - fraction, torch.sin((1 - fraction) * angle) / sine),
        torch.where(straight, fraction, torch.sin(fraction * angle) / sine),
    )


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of the angle between vectors, summed block by block; 0 if one is ~ 0."""
    with one_thread():
        return _cosine(a, b)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    unit_a, unit_b = _usable_norm(a), _usable_norm(b)
    # divided before the product, which could overflow or vanish otherwise
    parts = [
        ((x / unit_a) * (y / unit_b)).sum()
        for x, y in zip(torch.split(a, _BLOCK), torch.split(b, _BLOCK), strict=True)
    ]
    return torch.stack(parts).sum().clamp(-1, 1)


def _usable_norm(vector: Tensor) -> Tensor:
    """Return the Euclidean norm from the norms of blocks, or 1 if it is too small to divide by."""
    norms = torch.stack([torch.linalg.vector_norm(block) for block in torch.split(vector, _BLOCK)])
    norm = torch.linalg.vector_norm(norms)
    return torch.where(norm > _SMALL_NORM, norm, 1.0)
