"""Moves points of the unit cube at random: clouds about a centre, and mutations."""

from __future__ import annotations

import numpy as np

from evomerge.optimizers.coordinates import Floats, Mask

_MUTATED = 0.25  # share of a child's coordinates that are moved, at least one


def cloud(rng: np.random.Generator, centre: Floats, sigma: Floats | float, n: int) -> Floats:
    """Draw n points about a centre of the unit cube, reflected into it; the first is the centre."""
    units = centre + sigma * rng.standard_normal((n, len(centre)))
    units[0] = centre
    return reflected(units)


def reflected(units: Floats) -> Floats:
    """Fold what lies outside the unit cube back into it.

    >>> reflected(np.array([-0.25, 0.5, 1.25]))
    array([0.25, 0.5 , 0.75])
    """
    folded: Floats = 1 - np.abs(1 - np.mod(units, 2))
    return folded


def mutated(rng: np.random.Generator, child: Floats, steps: Floats, is_choice: Mask) -> Floats:
    """Move some coordinates, at least one, by normal steps; a choice is drawn anew.

    Args:
        rng: The generator of the moves.
        child: Unit coordinates; (d,).
        steps: Standard deviation of each coordinate's move; (d,).
        is_choice: True for coordinates that are choices, no value of which is near another; (d,).
    """
    moved = rng.random(len(child)) < _MUTATED
    moved[rng.integers(len(child))] = True
    near = reflected(child + steps * rng.standard_normal(len(child)))
    anew = rng.random(len(child))
    result: Floats = np.where(moved, np.where(is_choice, anew, near), child)
    return result
