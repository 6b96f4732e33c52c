"""Estimates how many parents are worth merging, from uniform averages of some of them.

The loss of an average of k experts falls like A / (k + b) towards a floor (Wang 2025,
https://arxiv.org/abs/2509.24244), so that few experts have most of the gain. Here in scores:

    s(k) = limit - A / (k + b)
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

PER_SIZE = 3  # averages of each size
_SIZES = 6  # sizes from three on, at most
MOST_B = 10.0  # where the fit ends: then the scores rise almost in a line
_ENOUGH = 0.9  # of the gain that all parents have over one
Subset = tuple[str, ...]


@dataclass(frozen=True)
class Curve:
    """The mean score of averages by their number of parents, and its fit.

    Attributes:
        means: By number of parents.
        limit: What the fit says infinitely many would reach; None where the scores do not rise.
        a: A of the fit, at least 0.
        b: b of the fit, from 0 to `MOST_B`.
        enough: The least number that has nine tenths of what all have over one, by the fit; all
            of them if there is no fit.
        effects: Of each parent, the mean score of averages with it less that of those without it,
            among averages of two and more; the lowest first.
    """

    means: Mapping[int, float]
    limit: float | None
    a: float
    b: float
    enough: int
    effects: Mapping[str, float]


def subsets(names: Sequence[str], seed: int) -> list[Subset]:
    """Draw which parents are averaged, three and more at a time; all of them come last."""
    count = len(names)
    if count < 3:
        return []
    spread = np.unique(np.geomspace(3, count, _SIZES).round().astype(int))
    drawn: list[Subset] = []
    for size in spread.tolist():
        draw = random.Random(f"{seed}/{size}")
        if comb(count, size) <= PER_SIZE:
            drawn += list(combinations(names, size))
            continue
        chosen: set[Subset] = set()
        while len(chosen) < PER_SIZE:
            chosen.add(tuple(sorted(draw.sample(list(names), size), key=list(names).index)))
        drawn += sorted(chosen)
    return drawn


def curve(scores: Mapping[Subset, float]) -> Curve | None:
    """Fit the curve to scores of averages; ``None`` without three sizes.

    Args:
        scores: By the parents averaged: single ones, pairs, and what `subsets` draws.
    """
    by_size: dict[int, list[float]] = {}
    for subset, score in scores.items():
        by_size.setdefault(len(subset), []).append(score)
    means = {size: float(np.mean(by_size[size])) for size in sorted(by_size)}
    if len(means) < 3:
        return None
    limit, a, b = _fit(np.array(list(means)), np.array(list(means.values())))
    most = max(means)
    enough = most
    if a > 0:
        gain = a / (1 + b) - a / (most + b)
        at = (k for k in range(1, most) if a / (1 + b) - a / (k + b) >= _ENOUGH * gain)
        enough = next(at, most)
    return Curve(means, limit if a > 0 else None, a, b, enough, _effects(scores))


def _fit(k: np.ndarray, s: np.ndarray) -> tuple[float, float, float]:
    """Return limit, A and b of the least squares, over a grid of b."""
    best = (float(s.mean()), 0.0, 0.0)
    least = float(((s - s.mean()) ** 2).sum()) - 1e-15
    for b in np.linspace(0.0, MOST_B, 201):
        columns = np.stack([np.ones(len(k)), -1 / (k + b)], axis=1)
        (limit, a), *_ = np.linalg.lstsq(columns, s, rcond=None)
        error = float(((columns @ (limit, a) - s) ** 2).sum())
        if a > 0 and error < least:
            best, least = (float(limit), float(a), float(b)), error
    return best


def _effects(scores: Mapping[Subset, float]) -> dict[str, float]:
    several = {subset: score for subset, score in scores.items() if len(subset) > 1}
    names = dict.fromkeys(name for subset in several for name in subset)
    effects = {}
    for name in names:
        inside = [score for subset, score in several.items() if name in subset]
        outside = [score for subset, score in several.items() if name not in subset]
        if inside and outside:
            effects[name] = float(np.mean(inside) - np.mean(outside))
    return dict(sorted(effects.items(), key=lambda item: item[1]))
