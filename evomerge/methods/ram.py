"""RAM (Yuan 2026): average what several models changed, keep whole what only one did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.methods.deltas import sum_in_order
from evomerge.methods.parameters import Range
from evomerge.methods.registry import merge_method

Change = Annotated[float, Range(0.0, 1e-3, valid_low=0.0)]


@merge_method(reference="Yuan 2026, https://arxiv.org/abs/2601.13572", in_mergekit=True)
def ram(base: Tensor, models: Sequence[Tensor], epsilon: Change = 1e-5) -> Tensor:
    """Average, per element, over the models that changed it.

    d_i = (model_i - base) where its magnitude exceeds epsilon, else 0
    base + sum_i d_i / max(1, number of models with d_i != 0)

    Made for models trained by reinforcement, whose deltas are sparse: an element that one model
    alone has changed is not diluted by the others.

    Differs from mergekit 0.1.5: a negative epsilon is an error; sums run in model order for any
    number of models.

    Args:
        base: Any shape.
        models: Fine-tuned from the base, of its shape.
        epsilon: Changes up to this magnitude count as none.

    >>> import torch
    >>> ram(torch.zeros(3), [torch.tensor([1.0, 2.0, 0.0]), torch.tensor([3.0, 0.0, 0.0])])
    tensor([2., 2., 0.])
    """
    deltas, counts = changes(base, models, epsilon)
    return base + sum_in_order([delta / counts.clamp(min=1) for delta in deltas])


def changes(base: Tensor, models: Sequence[Tensor], epsilon: float) -> tuple[list[Tensor], Tensor]:
    """Each model's delta where it exceeds epsilon, and how many models' do, per element."""
    deltas = [model - base for model in models]
    changed = [delta.abs() > epsilon for delta in deltas]
    counts = sum_in_order([mask.to(base.dtype) for mask in changed])
    return [delta * mask for delta, mask in zip(deltas, changed, strict=True)], counts
