"""LoraHub (Huang 2023) mixes the factors of LoRA adapters, not their products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.core.errors import UserError
from evomerge.core.threads import one_thread
from evomerge.methods.deltas import sum_in_order, weighted_deltas
from evomerge.methods.parameters import Doc, PerModelFloat, Range, one_per_model
from evomerge.methods.registry import FactorPair, merge_method

PerModelMix = Annotated[
    PerModelFloat,
    Range(-1.5, 1.5, smooth=True),
    Doc(
        "How much of each adapter's factors is mixed in; any finite number. The paper searches in "
        "[-1.5, 1.5]."
    ),
]


@merge_method(reference="Huang 2023, https://arxiv.org/abs/2307.13269")
def lorahub(
    base: Tensor,
    models: Sequence[Tensor],
    weight: PerModelMix,
    factors: Sequence[FactorPair | None] | None = None,
) -> Tensor:
    """Add the product of the mixed factors of LoRA adapters to the base.

    base + (sum_i w_i B_i) (sum_i w_i A_i), the scale alpha / r in B_i

    The models are adapters of one rank on the base (``base+adapter``; `lora_lego` mixes any ranks),
    or fine-tunes of it. The sum is quadratic in the weights, and has cross terms B_i A_j: one
    adapter of weight 0.5 adds a quarter of its delta, and of weight -0.5 too. For the sum of
    w_i B_i A_i take `task_arithmetic`. What a model changes without factors (a whole fine-tune,
    modules_to_save) is added as there: w_i (model_i - base). mergekit 0.1.5 has no such method.

    Raises:
        UserError: The adapters' ranks differ.

    >>> import torch
    >>> base, pair = torch.zeros(1, 1), (torch.tensor([[2.0]]), torch.tensor([[3.0]]))
    >>> lorahub(base, [base + 6], 0.5, [pair])
    tensor([[1.5000]])
    """
    weights = one_per_model("weight", weight, len(models))
    pairs = list(factors or [None] * len(models))
    ranks = sorted({pair[1].shape[0] for pair in pairs if pair is not None})
    if len(ranks) > 1:
        raise UserError(f"lorahub: expected adapters of one rank, but got {ranks}; see lora_lego")
    adapters = [(w, pair) for w, pair in zip(weights, pairs, strict=True) if pair is not None]
    rest = [
        (w, model - base)
        for w, model, pair in zip(weights, models, pairs, strict=True)
        if pair is None
    ]
    result = base.clone()
    if rest:
        result += weighted_deltas(
            [delta for _, delta in rest], [w for w, _ in rest], normalize=False
        )
    if adapters:
        left = sum_in_order([w * pair[0].to(base.dtype) for w, pair in adapters])
        right = sum_in_order([w * pair[1].to(base.dtype) for w, pair in adapters])
        with one_thread():
            result += left @ right
    return result
