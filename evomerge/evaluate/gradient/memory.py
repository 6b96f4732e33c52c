"""Counts the memory that a backward pass needs for what the forward pass leaves behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Activations:
    """Bytes kept for the backward pass, weights not counted, at present and at most.

    Attributes:
        peak: The most that were kept at once.
    """

    def __init__(self, model: nn.Module) -> None:
        self.peak = 0
        self._now = 0
        self._uses: Counter[int] = Counter()  # by address of the storage
        self._weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(self, tensor: Tensor) -> Tensor | _Kept:
        """Count a tensor that is kept, unless it is a weight."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() in self._weights:
            return tensor
        return _Kept(tensor, storage.data_ptr(), storage.nbytes(), self)

    def add(self, address: int, size: int) -> None:
        """Count a storage, once for all tensors that share it."""
        self._uses[address] += 1
        if self._uses[address] == 1:
            self._now += size
            self.peak = max(self.peak, self._now)

    def drop(self, address: int, size: int) -> None:
        """Count a storage no longer once its last tensor is gone."""
        self._uses[address] -= 1
        if not self._uses[address]:
            del self._uses[address]
            self._now -= size


class _Kept:
    """A kept tensor; autograd holds it until its backward pass."""

    def __init__(self, tensor: Tensor, address: int, size: int, counted: Activations) -> None:
        self.tensor = tensor
        self._about = address, size
        self._counted = counted
        counted.add(address, size)

    def __del__(self) -> None:
        self._counted.drop(*self._about)


@contextmanager
def activations(model: nn.Module) -> Iterator[Activations]:
    """Count what forward passes of a model keep for their backward passes."""
    counted = Activations(model)

    def unpack(kept: Tensor | _Kept) -> Tensor:
        return kept.tensor if isinstance(kept, _Kept) else kept

    with torch.autograd.graph.saved_tensors_hooks(counted.pack, unpack):
        yield counted
