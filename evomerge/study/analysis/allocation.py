"""Shares out the fall of the loss along a gradient search among the dimensions.

    share_j = Σ_t -(g_tj + g_t+1,j) / 2 · (x_t+1,j - x_tj), over the sum of all j

the trapezoid rule of the path integral of the gradient, whose sum over j is the fall of the loss.
Lan 2019, LCA: loss change allocation for neural network training,
https://arxiv.org/abs/1909.01440. Each step sees other items, so it is noisy; a dimension that
raised the loss has a share below 0.
"""

from __future__ import annotations

import numpy as np

from evomerge.study.journal.record import Record

_LEAST = 3  # steps


def allocation(record: Record) -> list[float] | None:
    """Return each dimension's share; shares add up to 1.

    ``None`` where the search did not follow gradients one point at a time, or the loss along the
    path, by its gradients, did not fall.
    """
    dimensions = record.dimensions
    points, gradients = [], []
    for _, ask in sorted(record.generations.items()):
        if ask.gradients is None or len(ask.trials) != 1:
            continue
        point, gradient = record.trials[ask.trials[0]].point, ask.gradients[0]
        if point is None or gradient is None or len(gradient) != len(dimensions):
            continue
        numbers = [
            0.0 if d.kind == "categorical" else float(v)
            for d, v in zip(dimensions, point, strict=True)
        ]
        points.append(numbers)
        gradients.append(gradient)
    if len(points) <= _LEAST:
        return None
    x, g = np.array(points), np.array(gradients)  # (steps, dimensions)
    fall = -((g[1:] + g[:-1]) / 2 * np.diff(x, axis=0)).sum(axis=0)
    total = float(fall.sum())
    return None if total <= 0 else [float(share) for share in fall / total]
