"""A device that is not there: it counts the bytes that are put on it, and has a limit."""

from __future__ import annotations

import weakref
from collections import Counter

import torch
from torch import Tensor


class Device:
    """A device that is not there: it counts the bytes that are copied to it, and has a limit."""

    def __init__(self, limit: float):
        self.limit, self.held, self.peak = limit, 0, 0
        self.copies: Counter[str] = Counter()

    def copied(self, tensor: Tensor, _device: torch.device) -> Tensor:
        return self.count(tensor.clone())

    def count(self, copy: Tensor) -> Tensor:
        """Count a tensor until its memory is free."""
        size = copy.untyped_storage().nbytes()
        self.held += size
        self.peak = max(self.peak, self.held)
        if self.held > self.limit:
            raise torch.OutOfMemoryError(f"{self.held} bytes")
        weakref.finalize(copy.untyped_storage(), self._free, size)
        return copy

    def _free(self, size: int) -> None:
        self.held -= size
