"""SCE (Wan 2024, FuseChat): select where models differ, weigh by energy, erase minority signs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from evomerge.methods.deltas import elect_sign, energy_shares, largest, sum_in_order
from evomerge.methods.parameters import Doc, Fraction
from evomerge.methods.registry import merge_method

_SMALL_SHARE = 1e-6  # least sum of shares that is divided by (mergekit's constant)


@merge_method(reference="Wan 2024, https://arxiv.org/abs/2408.07990", in_mergekit=True)
def sce(
    base: Tensor,
    models: Sequence[Tensor],
    select_topk: Annotated[
        Fraction,
        Doc(
            "Part of the elements, of those that differ between models, that is kept; 1 keeps "
            "every element, whether it differs or not."
        ),
    ] = 1.0,
    select_applies_to: Annotated[
        Literal["deltas", "weights"],
        Doc(
            "What the selection masks: ``deltas``, as in the paper, or, as in the authors' own "
            "program, only the ``weights`` s_i, while whole deltas are merged."
        ),
    ] = "deltas",
) -> Tensor:
    """Keep the elements in which the deltas vary most, weigh deltas by energy, add what agrees.

    m    = the part select_topk, of largest variance over the models, of the elements with any
    d_i  = m * (model_i - base),  s_i = mean(d_i^2) / sum_j mean(d_j^2)
    sign = +1 where sum_i d_i >= 0, else -1
    base + sum_{i: sign(d_i) = sign} s_i d_i / sum_{i: sign(d_i) = sign} s_i

    Differs from mergekit 0.1.5: the models' shares s_i are equal only if there is no energy at all
    (mergekit takes them for equal where sum_j mean(d_j^2) < 1e-6, which is where small deltas are);
    of equal variances a fixed hash of the index says which are kept (left open there); how many are
    kept is counted in double precision; `select_applies_to`; sums run in model order for any number
    of models.

    >>> import torch
    >>> sce(torch.zeros(2), [torch.tensor([1.0, 3.0]), torch.tensor([1.0, -1.0])])
    tensor([1., 3.])
    """
    if base.numel() == 0:
        return base.clone()
    deltas = [model - base for model in models]
    selected = deltas
    if select_topk < 1:
        variance = torch.stack(deltas).var(dim=0, correction=0)
        count = int(select_topk * int(variance.count_nonzero()))
        mask = largest(variance, count)  # m
        selected = [delta * mask for delta in deltas]
    shares = energy_shares(selected)  # s_i
    if select_applies_to == "deltas":
        deltas = selected
    elected = elect_sign(deltas)
    agreeing = [
        (delta.sign() == elected) * share for delta, share in zip(deltas, shares, strict=True)
    ]
    mixed = sum_in_order([delta * part for delta, part in zip(deltas, agreeing, strict=True)])
    return base + mixed / sum_in_order(agreeing).clamp(min=_SMALL_SHARE)
