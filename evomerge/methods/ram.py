"""RAM (Yuan 2026): average what several models changed, keep or amplify what only one changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.methods.deltas import sum_in_order
from evomerge.methods.parameters import Doc, Range
from evomerge.methods.registry import merge_method

Change = Annotated[
    float,
    Range(0.0, 1e-3, valid_low=0.0),
    Doc("Changes up to this magnitude count as none."),
]
Gain = Annotated[
    float,
    Range(0.0, 1.0, valid_low=0.0),
    Doc("Gain per ratio of shared changes to a model's own."),
]


@merge_method(reference="Yuan 2026, https://arxiv.org/abs/2601.13572", in_mergekit=True)
def ram(base: Tensor, models: Sequence[Tensor], epsilon: Change = 1e-5) -> Tensor:
    """Return average, per element, over the models that changed it.

    d_i = (model_i - base) where its magnitude exceeds epsilon, else 0
    base + sum_i d_i / max(1, number of models with d_i != 0)

    Made for models trained by reinforcement, whose deltas are sparse: an element that one model
    alone has changed is not diluted by the others.

    Differs from mergekit 0.1.5: a negative epsilon is an error; sums run in model order for any
    number of models.

    >>> import torch
    >>> ram(torch.zeros(3), [torch.tensor([1.0, 2.0, 0.0]), torch.tensor([3.0, 0.0, 0.0])])
    tensor([2., 2., 0.])
    """
    deltas, counts = _changes(base, models, epsilon)
    return base + sum_in_order([delta / counts.clamp(min=1) for delta in deltas])


@merge_method(reference="Yuan 2026, https://arxiv.org/abs/2601.13572", in_mergekit=True)
def ramplus_tl(
    base: Tensor,
    models: Sequence[Tensor],
    r: Gain = 0.1,
    alpha: Annotated[Gain, Doc("Largest ratio that counts.")] = 0.2,
    epsilon: Change = 1e-5,
) -> Tensor:
    """Average shared changes; amplify a model's own, the more of its changes are shared.

    d_i = (model_i - base) where its magnitude exceeds epsilon, else 0
    c   = number of models with d_i != 0, per element
    g_i = 1 + r min(alpha, (d_i's elements with c > 1) / (d_i's elements with c = 1))
    base + sum_i d_i * (g_i where c = 1, 1/c where c > 1)

    Elements are counted per tensor (TL: tensor-local); the paper counts over the whole model.

    Differs from mergekit 0.1.5: negative r, alpha or epsilon are errors; an epsilon of 0 is no
    division by zero (a model with no change of its own has nothing to amplify); sums run in model
    order for any number of models; in float64 the gain is float64 too (mergekit's is float32).

    >>> import torch
    >>> models = [torch.tensor([1.0, 2.0, 0.0]), torch.tensor([3.0, 0.0, 0.0])]
    >>> ramplus_tl(torch.zeros(3), models, r=0.5, alpha=1.0)
    tensor([2., 3., 0.])
    """
    deltas, counts = _changes(base, models, epsilon)
    alone, shared = counts == 1, counts > 1
    parts = []
    for delta in deltas:
        changed = delta != 0
        n_alone = (changed & alone).sum().to(base.dtype)
        ratio = (changed & shared).sum().to(base.dtype) / n_alone.clamp(min=1)
        gain = 1 + r * torch.where(n_alone > 0, ratio, 0.0).clamp(max=alpha)
        parts.append(delta * alone * gain + delta * shared / counts.clamp(min=1))
    return base + sum_in_order(parts)


def _changes(base: Tensor, models: Sequence[Tensor], epsilon: float) -> tuple[list[Tensor], Tensor]:
    """Return each model's delta where it exceeds epsilon, and how many models' do, per element."""
    deltas = [model - base for model in models]
    changed = [delta.abs() > epsilon for delta in deltas]
    counts = sum_in_order([mask.to(base.dtype) for mask in changed])
    return [delta * mask for delta, mask in zip(deltas, changed, strict=True)], counts
