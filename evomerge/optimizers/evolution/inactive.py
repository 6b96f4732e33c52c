"""Keeps a normal distribution unchanged in coordinates that were inactive where they were drawn.

Fitness says nothing about such a coordinate, yet selection moves it: a random walk of the mean, as
long as the steps are, and deviations that shrink with everybody else's. Telling a step of 0
instead would be worse: the variance dies, and paths that are too short make all steps smaller. So
the steps are told as drawn, which leaves step length and shape as they are on average, and what the
inactive ones did to the mean and to the deviations is taken back.
"""

from __future__ import annotations

import numpy as np

from evomerge.optimizers.coordinates import Floats, Mask


def taken_back(
    steps: Floats, weights: Floats, inactive: Mask, before: Floats, after: Floats
) -> tuple[Floats, Floats]:
    """Return what to add to the mean and the factors of the deviations after an update.

    A coordinate that was inactive in all that was selected ends where it was, as wide as it was;
    one that was in a share s of it (by weight) keeps 1 - s of the change of its deviation.

    Args:
        steps: x - mean of the selected points, best first; (mu, d).
        weights: Of these in the new mean, adding up to 1; (mu,).
        inactive: Where a step means nothing; (mu, d).
        before: Deviations before the update; (d,).
        after: And after it.

    >>> steps, weights = np.array([[0.2], [-0.1]]), np.array([0.75, 0.25])
    >>> one = np.array([[True], [False]])
    >>> shift, scale = taken_back(steps, weights, one, np.array([0.16]), np.array([0.01]))
    >>> shift, scale  # -(.75 * .2), and 16^.75
    (array([-0.15]), array([8.]))
    """
    shift: Floats = -(weights @ np.where(inactive, steps, 0.0))
    shares = weights @ inactive
    scale: Floats = (before / after) ** shares
    return shift, scale
