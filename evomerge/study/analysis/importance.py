"""Estimates which dimensions mattered: the share of the gains' variance that each explains.

A ridge regression of the trials' gains over the reference on every dimension's place in its range
and the square of it, as Optuna's importances do with trees; its worth is shown by predicting trials
that were held back. Where it predicts nothing, nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.study.journal.record import Record

Floats = NDArray[np.float64]
_RIDGE = 0.1  # of the features' own variance
_FOLDS = 5
_LEAST = 20  # trials


def importance(record: Record) -> dict[str, Any] | None:
    """Return the shares of the explained variance, by dimension and by what that belongs to.

    Returns:
        ``trials``; ``predicted``, the share of the variance of held-back gains that is predicted
        (5 folds; below 0 is worse than their mean); ``dimensions`` {name: share} and ``groups``
        {a name without its knot or block: share}, largest first, shares adding up to 1. ``None``
        for fewer than 20 trials with points and gains.
    """
    dimensions = record.dimensions
    points, gains = [], []
    for standing in record.standings():
        point = record.trials[standing.trial].point
        if standing.gain is not None and point is not None:
            points.append([d.position(v) for d, v in zip(dimensions, point, strict=True)])
            gains.append(standing.gain)
    if len(gains) < _LEAST or not dimensions:
        return None
    positions, gained = np.array(points), np.array(gains)
    effects = _effects(positions, gained)  # (trials, dimensions)
    spread = effects.var(axis=0)
    total = float(spread.sum())
    shares = spread / total if total > 0 else np.zeros(len(dimensions))
    by_name = {d.name: float(s) for d, s in zip(dimensions, shares, strict=True)}
    groups: dict[str, float] = {}
    for dimension, share in zip(dimensions, by_name.values(), strict=True):
        group = dimension.group or dimension.name  # older journals have no groups
        groups[group] = groups.get(group, 0.0) + share
    return {
        "trials": len(gains),
        "predicted": _predicted(positions, gained),
        "dimensions": _falling(by_name),
        "groups": _falling(groups),
    }


def _effects(positions: Floats, gains: Floats) -> Floats:
    """Return each dimension's contribution to each trial's gain by the regression."""
    away = positions - positions.mean(axis=0)
    squares = away**2 - (away**2).mean(axis=0)
    features = np.hstack([away, squares])
    scales = np.maximum(features.std(axis=0), 1e-12)
    x = features / scales
    gram = x.T @ x + _RIDGE * len(x) * np.eye(x.shape[1])
    coefficients = np.linalg.solve(gram, x.T @ (gains - gains.mean()))
    terms = x * coefficients
    d = positions.shape[1]
    added: Floats = terms[:, :d] + terms[:, d:]
    return added


def _predicted(positions: Floats, gains: Floats) -> float:
    """Return 1 - the squared error on held-back trials over that of their mean."""
    order = np.random.default_rng(0).permutation(len(gains))
    squared_error = 0.0
    for fold in range(_FOLDS):
        test, train = order[fold::_FOLDS], np.setdiff1d(order, order[fold::_FOLDS])
        middle = positions[train].mean(axis=0)
        features = [
            np.hstack([p - middle, (p - middle) ** 2]) for p in (positions[train], positions[test])
        ]
        centre = features[0].mean(axis=0)
        scale = np.maximum(features[0].std(axis=0), 1e-12)
        x, y = ((f - centre) / scale for f in features)
        gram = x.T @ x + _RIDGE * len(x) * np.eye(x.shape[1])
        mean = gains[train].mean()
        predicted = mean + y @ np.linalg.solve(gram, x.T @ (gains[train] - mean))
        squared_error += float(((gains[test] - predicted) ** 2).sum())
    around_mean = float(((gains - gains.mean()) ** 2).sum())
    return 1 - squared_error / around_mean if around_mean > 0 else 0.0


def _falling(shares: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(shares.items(), key=lambda pair: -pair[1]))
