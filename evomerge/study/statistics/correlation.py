"""Computes the rank correlation: how far the smooth score orders recipes as the metric does."""

from __future__ import annotations

from collections.abc import Sequence

LOW = 0.5  # below, the smooth score is a doubtful guide


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return Spearman's rank correlation; ``None`` below four pairs or where a side is flat."""
    from scipy.stats import rankdata

    if len(pairs) < 4:
        return None
    a, b = (rankdata([pair[side] for pair in pairs]) for side in (0, 1))
    a, b = a - a.mean(), b - b.mean()
    scale = float((a @ a) * (b @ b)) ** 0.5
    return float(a @ b) / scale if scale > 0 else None
