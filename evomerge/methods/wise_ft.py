"""WiSE-FT (Wortsman 2021) draws a straight line from the base to one fine-tuned model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.methods.parameters import Count, Doc, SmoothFraction
from evomerge.methods.registry import merge_method


@merge_method(reference="Wortsman 2021, https://arxiv.org/abs/2109.01903")
def wise_ft(
    base: Tensor,
    models: Annotated[Sequence[Tensor], Count(1, 1)],
    alpha: Annotated[
        SmoothFraction,
        Doc(
            "Where on the line: 0 is the base, 1 the model, both to the bit; the paper advises 0.5 "
            "where nothing can be measured."
        ),
    ] = 0.5,
) -> Tensor:
    """Interpolate between the base and one model, in a straight line.

    (1 - alpha) * base + alpha * model

    mergekit 0.1.5 has no such method; its `task_arithmetic` of one model, weight alpha, is the
    same but for rounding.

    >>> import torch
    >>> wise_ft(torch.tensor([1.0, 2.0]), [torch.tensor([3.0, 0.0])], alpha=0.25)
    tensor([1.5000, 1.5000])
    """
    (model,) = models
    if alpha == 0:
        return base.clone()
    return model.clone() if alpha == 1 else (1 - alpha) * base + alpha * model
