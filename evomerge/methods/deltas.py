"""Provides small moves on deltas (fine-tuned minus base) that task-arithmetic methods consist of.

Each returns a new tensor, in the dtype of its input, and leaves its input alone; shapes are any.
Sums over models run in the order of the models, one at a time, so an element's result depends
neither on its position nor on how a tensor is cut into blocks nor on the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Literal

import torch
from torch import Tensor

from evomerge.core.threads import one_thread
from evomerge.methods.random import tie_order

_SMALL_NORM = 1e-7  # an L1 norm below it is not rescaled (mergekit 0.1.5's constant)
_SMALL_WEIGHT = 1e-8  # a sum of weights below it is not divided by (mergekit 0.1.5's constant)

Rescale = Literal["l1", "inverse", "none"]
Consensus = Literal["sum", "count"]
Aggregate = Literal["mean", "sum", "max"]
ZeroSign = Literal["plus", "majority"]


def kept_count(density: float, count: int) -> int:
    """Return how many of `count` elements trimming keeps: at least one unless density is 0.

    >>> kept_count(0.2, 10), kept_count(0.01, 10), kept_count(0.0, 10)
    (2, 1, 0)
    """
    if density >= 1:
        return count
    if density <= 0 or count == 0:
        return 0
    return max(1, int(density * count))


def trim(delta: Tensor, density: float) -> Tensor:
    """Zero all but the `kept_count` elements of largest magnitude (Yadav 2023, §3.1, step 1).

    Exactly that many are kept: of equal magnitudes at the threshold, the first in `tie_order`.
    """
    keep = kept_count(density, delta.numel())
    if keep == 0:
        return torch.zeros_like(delta)
    return delta.clone() if density >= 1 else delta * largest(delta.abs(), keep)


def trim_outliers(delta: Tensor, density: float, gamma: float) -> Tensor:
    """Zero the largest magnitudes, a part `gamma`, and the smallest (Davari 2023, §3).

    What is left is the part `density`, rounded down, for which fewer outliers go if need be; 1
    leaves all. Of equal magnitudes, the first in `tie_order` count as the largest.
    """
    if density >= 1:
        return delta.clone()
    count = delta.numel()
    keep = int(density * count)
    reach = min(count, keep + int(gamma * count))  # how many are kept, or larger than those
    magnitude = delta.abs()
    return delta * (largest(magnitude, reach) & ~largest(magnitude, reach - keep))


def largest(values: Tensor, count: int) -> Tensor:
    """Return a mask of the `count` largest elements; of equal ones the first in `tie_order`."""
    flat = values.reshape(-1)
    if count >= flat.numel() or count <= 0:
        return torch.full_like(values, count > 0, dtype=torch.bool)
    threshold = flat.kthvalue(flat.numel() - count + 1).values  # the count-th largest
    mask = flat > threshold
    tied = (flat == threshold).nonzero().reshape(-1)
    places = tie_order(tied).sort().indices
    mask[tied[places[: count - int(mask.sum())]]] = True
    return mask.reshape(values.shape)


def rank_densities(delta: Tensor, density: float, epsilon: float) -> Tensor:
    """Return each element's probability of being kept, by its rank in its row (Deep 2024, §2).

    It grows evenly from density - e, for the smallest magnitude of a row, to density + e, for the
    largest; e is epsilon as far as density leaves room for it on either side. Rows run along the
    second dimension, a vector is one row, and an element alone in its row has the density itself.
    Of equal magnitudes the one of lower index ranks lower. In float32 for every dtype.
    """
    rows = delta.abs() if delta.dim() > 1 else delta.abs().reshape(1, -1)
    spread = min(epsilon, density, 1 - density)
    last = rows.shape[1] - 1
    order = rows.argsort(dim=1, stable=True)
    rank = order.argsort(dim=1).to(torch.float32)  # 0 for the smallest
    share = rank / last if last > 0 else torch.full_like(rank, 0.5)
    return ((density - spread) + share * 2 * spread).reshape(delta.shape)


def drop(delta: Tensor, density: float | Tensor, uniforms: Tensor) -> Tensor:
    """Keep the elements whose uniform number is below density (Yu 2024, §3.1, step 1).

    What a density keeps, every larger density keeps too. It may differ from element to element.
    """
    return delta * (uniforms < density)


def rescale(rest: Tensor, delta: Tensor, density: float, how: Rescale) -> Tensor:
    """Make up for what was dropped from `delta`, of which `kept` is left.

    ``l1`` gives back the L1 norm of `delta` (unless it or that of `kept` is below 1e-7), as
    mergekit does; ``inverse`` divides by the density, as the paper does (Yu 2024, §3.1, step 2).
    """
    if how == "none" or density >= 1 or density <= 0:
        return rest.clone()
    if how == "inverse":
        return rest / density
    return rescale_by_l1(rest, delta)


def rescale_by_l1(rest: Tensor, delta: Tensor) -> Tensor:
    """Give `kept` the L1 norm of `delta`, unless either's is below 1e-7."""
    return rest * l1_ratio(l1_norm(delta), l1_norm(rest))


def l1_norm(delta: Tensor) -> Tensor:
    """Sum up magnitudes, shape (), in the order of one thread, however many there are."""
    with one_thread():
        return delta.abs().sum()


def l1_ratio(before: Tensor, after: Tensor) -> Tensor:
    """Compute the factor that gives a delta of L1 norm `after` the norm `before`.

    1 if either is below 1e-7.
    """
    usable = (before >= _SMALL_NORM) & (after >= _SMALL_NORM)
    return torch.where(usable, before / after, 1.0)


def sum_in_order(tensors: Sequence[Tensor]) -> Tensor:
    """Add up tensors from first to last, starting from zero."""
    total = torch.zeros_like(tensors[0])
    for tensor in tensors:
        total += tensor
    return total


def weighted_deltas(
    deltas: Sequence[Tensor], weights: Sequence[float], *, normalize: bool
) -> Tensor:
    """Sum up w_i * delta_i, divided by the sum of w_i if normalized (unless that is ~ 0)."""
    mixed = sum_in_order([delta * weight for delta, weight in zip(deltas, weights, strict=True)])
    return mixed.div_(usable_sum(weights, mixed)) if normalize else mixed


def usable_sum(weights: Sequence[float], like: Tensor) -> Tensor:
    """Sum up the weights, shape (), in the dtype of `like`; 1 if the sum is ~ 0, below 1e-8."""
    total = torch.tensor(weights, dtype=like.dtype, device=like.device).sum()
    return torch.where(total.abs() < _SMALL_WEIGHT, 1.0, total)


def positive(values: Tensor) -> Tensor:
    """Return 1.0 where a value is above 0, else 0.0; several times as fast as a mask of bools."""
    return values.sign().clamp_(min=0)


def elect_sign(
    deltas: Sequence[Tensor], consensus: Consensus = "sum", zero_sign: ZeroSign = "plus"
) -> Tensor:
    """Elect +1 or -1 per element: the sign of the sum of deltas, or of their signs.

    A sum of zero elects +1, or what the majority of the tensor's elements elects.
    """
    votes = sum_in_order([delta.sign() for delta in deltas] if consensus == "count" else deltas)
    signs = votes.sign()
    if zero_sign == "majority":
        majority = torch.where(signs.sum(dtype=torch.float64) >= 0, 1.0, -1.0).to(signs.dtype)
        return torch.where(votes == 0, majority, signs)
    return signs.add_(0.5).sign_()


def disjoint_deltas(
    deltas: Sequence[Tensor],
    weights: Sequence[float],
    *,
    normalize: bool,
    consensus: Consensus = "sum",
    aggregate: Aggregate = "mean",
    zero_sign: ZeroSign = "plus",
) -> Tensor:
    """Add up as `weighted_deltas` does, but over the models that agree with the elected sign.

    Each element's sum, and its sum of weights, runs over the models whose w_i * delta_i has the
    elected sign there; with equal weights and `normalize` this is TIES' disjoint mean. A zero
    agrees with nothing. An element's sum of weights that is exactly 0 is not divided by. As
    `aggregate`, ``sum`` is never divided, ``max`` is the w_i * delta_i of largest magnitude.
    """
    weighted = [delta * weight for delta, weight in zip(deltas, weights, strict=True)]
    elected = elect_sign(weighted, consensus, zero_sign)  # Yadav 2023, step 2; step 3 below
    agreeing = [(vote * elected).clamp_(min=0) for vote in weighted]  # magnitudes, 0 elsewhere
    if aggregate == "max":
        return elected * reduce(torch.maximum, agreeing)
    mixed = sum_in_order(agreeing)
    if normalize and aggregate == "mean":
        divisor = sum_in_order(
            [part.sign() * weight for part, weight in zip(agreeing, weights, strict=True)]
        )
        mixed /= divisor + (1 - divisor.sign().abs())
    return elected * mixed


def energy_shares(deltas: Sequence[Tensor]) -> Tensor:
    """Return each delta's share of the mean squares; equal shares if all are 0; shape (n,)."""
    with one_thread():
        energies = torch.stack([delta.square().mean() for delta in deltas])
    total = energies.sum()
    return torch.where(total > 0, energies / torch.where(total > 0, total, 1.0), 1 / len(deltas))


def add_to_base(base: Tensor, mixed: Tensor, lambda_: float) -> Tensor:
    """Return base + lambda * mixed."""
    return base + (mixed if lambda_ == 1 else mixed * lambda_)


def adds_nothing(lambda_: float, weights: Sequence[float], densities: Sequence[float]) -> bool:
    """Return whether the parameters alone say that the merge is the base itself, to the bit."""
    return lambda_ == 0 or all(
        weight == 0 or density <= 0 for weight, density in zip(weights, densities, strict=True)
    )
