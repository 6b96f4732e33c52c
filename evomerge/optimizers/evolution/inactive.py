"""Keeps a normal distribution unchanged in coordinates that are inactive at the points it drew.

Fitness says nothing about such a coordinate, yet selection moves it: a random walk of the mean, as
long as the steps are, and deviations that shrink with all others. A step of 0 in its place would be
worse: the variance dies, and paths that are too short make all steps smaller. So the update sees
the steps as drawn, which leaves step length and shape as they are on average, and the changes of
the mean and of the deviations that came from inactive coordinates are undone.
"""

from __future__ import annotations

import numpy as np

from evomerge.optimizers.coordinates import Floats, Mask


def correct_inactive(
    steps: Floats, weights: Floats, inactive: Mask, before: Floats, after: Floats
) -> tuple[Floats, Floats]:
    """Return a shift of the mean and factors of the deviations that undo inactive changes.

    A coordinate that was inactive at all selected points keeps its mean and its deviation; one that
    was inactive at a share s of them (by weight) keeps 1 - s of the change of its deviation.

    Args:
        steps: x - mean of the selected points, best first; (mu, d).
        weights: Of these in the new mean, adding up to 1; (mu,).
        inactive: True where a step has no effect; (mu, d).
        before: Deviations before the update; (d,).
        after: Deviations after the update; (d,).

    >>> steps, weights = np.array([[0.2], [-0.1]]), np.array([0.75, 0.25])
    >>> inactive = np.array([[True], [False]])
    >>> shift, scale = correct_inactive(
    ...     steps, weights, inactive, before=np.array([0.16]), after=np.array([0.01])
    ... )
    >>> shift, scale  # -(.75 * .2), and 16^.75
    (array([-0.15]), array([8.]))
    """
    shift: Floats = -(weights @ np.where(inactive, steps, 0.0))
    shares = weights @ inactive
    scale: Floats = (before / after) ** shares
    return shift, scale
