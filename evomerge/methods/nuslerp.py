"""NuSLERP (mergekit, Goddard 2024) follows the arc between two models, or between their deltas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.core.threads import one_thread
from evomerge.methods.parameters import Count, Doc, PerModelShare, one_per_model
from evomerge.methods.registry import merge_method

_SMALL_TOTAL = 1e-6  # sum of weights below which the middle is taken (mergekit's constant)
_SMALL_NORM = 1e-7  # norms below it are taken for it (mergekit's constant)
_SMALL_SINE = 1e-8  # sine of the angle up to which the arc is a line (mergekit's constant)


@merge_method(
    reference="mergekit, Goddard 2024, https://arxiv.org/abs/2403.13257", in_mergekit=True
)
def nuslerp(
    base: Tensor | None,
    models: Annotated[Sequence[Tensor], Count(2, 2)],
    weight: Annotated[
        PerModelShare,
        Doc("The share of each model; any finite number. Only their ratio counts."),
    ],
    nuslerp_row_wise: Annotated[
        bool,
        Doc(
            "Unless flattened, take vectors along the first dimension rather than the last "
            "(mergekit's word for it)."
        ),
    ] = False,
    nuslerp_flatten: Annotated[bool, Doc("Take each tensor as one vector.")] = True,
) -> Tensor:
    """Interpolate along the arc between two models, or between their deltas if there is a base.

    d_i = model_i - base (model_i itself without a base),  t = w_2 / (w_1 + w_2)
    cos(a) = <d_1, d_2> / (|d_1| |d_2|)
    base + sin((1-t) a) / sin(a) * d_1 + sin(t a) / sin(a) * d_2

    Exactly parallel or opposite vectors are interpolated in a straight line; weights whose sum is
    ~ 0 mean the middle; a zero vector is at right angles to all.

    Differs from mergekit 0.1.5: an empty tensor is merged, to itself.

    >>> import torch
    >>> one, two = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    >>> nuslerp(None, [one, two], weight=0.5)
    tensor([0.7071, 0.7071])
    """
    shape = models[0].shape
    if models[0].numel() == 0:
        return models[0].clone()
    t = share_of_second(*one_per_model("weight", weight, len(models)))
    a, b = models if base is None else [model - base for model in models]
    if nuslerp_flatten:
        merged = _arc(a.reshape(-1), b.reshape(-1), t).reshape(shape)
    elif nuslerp_row_wise and len(shape) > 1:
        merged = _arc(a.transpose(0, -1), b.transpose(0, -1), t).transpose(0, -1)
    else:
        merged = _arc(a, b, t)
    return merged.contiguous() if base is None else base + merged


def share_of_second(of_first: float, of_second: float) -> float:
    """Return the position on the arc, from 0, the first, to 1, the second.

    The middle if the weights cancel.
    """
    total = of_first + of_second
    return 0.5 if abs(total) < _SMALL_TOTAL else of_second / total


def _arc(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Interpolate vectors along the last dimension spherically."""
    of_a, of_b, divisor = arc_weights(cosine(a, b), t)
    return (of_a * a + of_b * b) / divisor


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of the angle between vectors along the last dimension, kept as 1."""
    with one_thread():
        return (_unit(a) * _unit(b)).sum(dim=-1, keepdim=True).clamp(-1, 1)


def arc_weights(cosine: Tensor, t: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the factors of both vectors, and the divisor of their sum."""
    straight = 1 - cosine.square() <= _SMALL_SINE**2
    angle = torch.acos(torch.where(straight, 0.0, cosine))
    return (
        torch.where(straight, 1 - t, torch.sin((1 - t) * angle)),
        torch.where(straight, t, torch.sin(t * angle)),
        torch.where(straight, 1.0, torch.sin(angle)),
    )


def _unit(vectors: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / norms.clamp(min=_SMALL_NORM)
