"""Finds the magnitude that a given share of a whole model's changes reaches.

Exact and in two passes: magnitudes are counted by the upper half of their bits, which grow with
them, then those in the one bin that matters by the lower half.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from evomerge.methods.deltas import kept_count

_LOW_BITS = 15  # of the 31 that a float32 without its sign has
_BINS = 1 << (31 - _LOW_BITS)


class Magnitudes:
    """The magnitudes of a model's changes, counted."""

    def __init__(self) -> None:
        self._counts = torch.zeros(_BINS, dtype=torch.int64)
        self._exact: dict[float, float] = {}

    def count(self, deltas: Iterator[Tensor]) -> Magnitudes:
        """Count the changes of every tensor, float32 of any shape."""
        for delta in deltas:
            self._counts += torch.bincount(_bits(delta) >> _LOW_BITS, minlength=_BINS)
        return self

    def threshold(self, density: float, deltas: Iterator[Tensor]) -> float:
        """Return the smallest magnitude among the largest `density` of all.

        Args:
            density: Part that is kept; 0 keeps nothing, more than 0 at least one.
            deltas: The same changes again; read only if the answer is not known yet.
        """
        keep = kept_count(density, int(self._counts.sum()))
        if density >= 1 or keep == 0:
            return 0.0 if density >= 1 else float("inf")
        if density not in self._exact:
            from_top = self._counts.flip(0).cumsum(0)
            index = int((from_top >= keep).nonzero()[0])
            chosen = _BINS - 1 - index
            above = int(from_top[index]) - int(self._counts[chosen])
            within = torch.zeros(1 << _LOW_BITS, dtype=torch.int64)
            for delta in deltas:
                bits = _bits(delta)
                low = bits[bits >> _LOW_BITS == chosen] & ((1 << _LOW_BITS) - 1)
                within += torch.bincount(low, minlength=1 << _LOW_BITS)
            rest = within.flip(0).cumsum(0)
            last = len(within) - 1 - int((rest >= keep - above).nonzero()[0])
            magnitude = torch.tensor([(chosen << _LOW_BITS) | last], dtype=torch.int32)
            self._exact[density] = float(magnitude.view(torch.float32))
        return self._exact[density]


def _bits(delta: Tensor) -> Tensor:
    """Return magnitudes as whole numbers in the same order; on the CPU, flat."""
    return delta.abs().float().cpu().contiguous().reshape(-1).view(torch.int32)
