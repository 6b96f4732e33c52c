"""RAM+ (Yuan 2026), tensor by tensor: RAM that amplifies what only one model changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.methods.deltas import sum_in_order
from evomerge.methods.parameters import Range
from evomerge.methods.ram import Change, changes
from evomerge.methods.registry import merge_method

Gain = Annotated[float, Range(0.0, 1.0, valid_low=0.0)]


@merge_method(reference="Yuan 2026, https://arxiv.org/abs/2601.13572", in_mergekit=True)
def ramplus_tl(
    base: Tensor,
    models: Sequence[Tensor],
    r: Gain = 0.1,
    alpha: Gain = 0.2,
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

    Args:
        base: Any shape.
        models: Fine-tuned from the base, of its shape.
        r: Gain per ratio of shared to own changes.
        alpha: Largest ratio that counts.
        epsilon: Changes up to this magnitude count as none.

    >>> import torch
    >>> models = [torch.tensor([1.0, 2.0, 0.0]), torch.tensor([3.0, 0.0, 0.0])]
    >>> ramplus_tl(torch.zeros(3), models, r=0.5, alpha=1.0)
    tensor([2., 3., 0.])
    """
    deltas, counts = changes(base, models, epsilon)
    alone, shared = counts == 1, counts > 1
    parts = []
    for delta in deltas:
        changed = delta != 0
        own = (changed & alone).sum().to(base.dtype)
        ratio = (changed & shared).sum().to(base.dtype) / own.clamp(min=1)
        gain = 1 + r * torch.where(own > 0, ratio, 0.0).clamp(max=alpha)
        parts.append(delta * alone * gain + delta * shared / counts.clamp(min=1))
    return base + sum_in_order(parts)
