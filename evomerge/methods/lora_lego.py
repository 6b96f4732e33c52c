"""LoRA-LEGO (Zhao 2024) takes adapters apart into their ranks, and puts like ranks into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.core.threads import one_thread
from evomerge.methods.deltas import sum_in_order
from evomerge.methods.parameters import Doc, Range
from evomerge.methods.registry import FactorPair, merge_method

Rank = Annotated[
    int,
    Range(0, 64, valid_low=0),
    Doc("k, how many ranks the merged adapter has; 0 for that of the largest adapter."),
]
OutputReweight = Annotated[bool, Doc("Whether the product is multiplied by sqrt(r / k).")]
_ROUNDS = 100  # of k-means; it converges long before


@merge_method(reference="Zhao 2024, https://arxiv.org/abs/2409.16167")
def lora_lego(
    base: Tensor,
    models: Sequence[Tensor],
    rank: Rank = 0,
    output_reweight: OutputReweight = False,
    factors: Sequence[FactorPair | None] | None = None,
) -> Tensor:
    """Cluster the ranks of LoRA adapters, and add the product of the clusters' centres to the base.

    u   = (A_i[j, :], B_i[:, j]) for every rank j of every adapter i, the scale alpha / r in B_i
    c   = the centres of k clusters of the u by k-means, each scaled to the mean norm of its own
    base + sum over clusters of c_B c_A^T [ * sqrt(r / k) ]

    The models are adapters on the base (``base+adapter``), of any ranks, or fine-tunes of it.
    Clusters start at the units that lie farthest from each other, so that nothing is drawn, and
    neither the order of adapters nor that of ranks matters. With k as large as all ranks together,
    the deltas are summed exactly. The factor sqrt(r / k), r the mean rank, is the paper's output
    reweighting as it is known to us, which is why it is off. What models change without factors (a
    whole fine-tune, modules_to_save) is averaged over those that change it. mergekit 0.1.5 has no
    such method.

    >>> import torch
    >>> base, pair = torch.zeros(1, 1), (torch.tensor([[2.0]]), torch.tensor([[3.0]]))
    >>> lora_lego(base, [base + 6, base + 6], factors=[pair, pair])
    tensor([[6.]])
    """
    pairs = list(factors or [None] * len(models))
    whole = [model - base for model, pair in zip(models, pairs, strict=True) if pair is None]
    changed = [delta for delta in whole if bool(delta.any())]
    result = base.clone()
    if changed:
        result += sum_in_order(changed) / len(changed)
    adapters = [pair for pair in pairs if pair is not None]
    if not adapters:
        return result
    units = torch.cat([torch.cat([right, left.T], dim=1) for left, right in adapters])  # (ranks, d)
    sizes = [right.shape[0] for _, right in adapters]
    k = min(rank or max(sizes), len(units))
    columns = adapters[0][1].shape[1]
    with one_thread():
        centres = _centres(units, k)
        product = centres[:, columns:].T @ centres[:, :columns]
    if output_reweight:
        product *= (sum(sizes) / len(sizes) / k) ** 0.5
    return result + product.to(base.dtype)


def _centres(units: Tensor, k: int) -> Tensor:
    """Cluster the rows by k-means, each centre scaled to its rows' mean norm; shape (k, d)."""
    if k == len(units):
        return units
    centres = units[_farthest(units, k)]
    cluster = torch.cdist(units, centres).argmin(dim=1)
    for _ in range(_ROUNDS):
        centres = torch.stack(
            [
                units[cluster == c].mean(dim=0) if bool((cluster == c).any()) else centres[c]
                for c in range(k)
            ]
        )
        moved = torch.cdist(units, centres).argmin(dim=1)
        if torch.equal(moved, cluster):
            break
        cluster = moved
    norms = units.norm(dim=1)
    for c in range(k):
        size = centres[c].norm()
        if bool((cluster == c).any()) and bool(size > 0):
            centres[c] *= norms[cluster == c].mean() / size
    return centres


def _farthest(units: Tensor, k: int) -> list[int]:
    """Choose the row farthest from the mean, then each time the one farthest from those chosen."""
    chosen = [int((units - units.mean(dim=0)).norm(dim=1).argmax())]
    nearest = (units - units[chosen[0]]).norm(dim=1)
    while len(chosen) < k:
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (units - units[chosen[-1]]).norm(dim=1))
    return chosen
