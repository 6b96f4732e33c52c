"""Finds the k largest elements of a delta from a sample of its ranking; see `Ranking`.

Elements are ranked by magnitude, the largest first, and equal ones by `methods.random.tie_order`,
which is the order in which `methods.deltas.largest` takes them. A key packs both, so that keys
ascend: ``(0x7FFFFFFF - bits of the float32 magnitude) << 32 | place in tie_order``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from evomerge.merge.kernels.delta import Delta
from evomerge.methods.random import tie_order

EXACT = 2**16  # elements up to which every key is kept
STRIDE = 64  # otherwise every 64th: 1/8 byte an element
MOST = 2**32  # elements that a key can number
GROUP = 2**22  # keys sorted at a time: 32 MB
BLOCK = 2**20
_TOP = 0x7FFFFFFF


class Edge(NamedTuple):  # as `Bracket`: made for each tensor and model of every candidate
    """An element of a ranking, by the bits of its magnitude and its place in `tie_order`."""

    bits: int
    at: int

    @property
    def key(self) -> int:
        """The key that ranks it."""
        return (_TOP - self.bits) << 32 | self.at


NOTHING = Edge(0x7F800000, -1)  # no finite magnitude lies within it
EVERYTHING = Edge(0, MOST - 1)


class Bracket(NamedTuple):
    """The k largest elements as a sample predicts: those up to `sure`, and `missing` more.

    Attributes:
        sure: The last element that is surely among them.
        maybe: The last element that may be; fewer than `STRIDE` lie between.
        missing: How many of those in between are among them.
    """

    sure: Edge
    maybe: Edge
    missing: int = 0

    def closed(self, between: Tensor) -> Bracket:
        """Return the bracket closed, given the keys of the elements in between, in any order."""
        if self.missing == 0:
            return Bracket(self.sure, self.sure)
        last = _edge(int(between.sort().values[self.missing - 1]))
        return Bracket(last, last)


class SortedKeys(Protocol):
    """Keys, ascending, int64: an array, or a file's."""

    def __len__(self) -> int: ...

    def __getitem__(self, at: slice, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Ranking:
    """Every `stride`-th key of a ranking, ascending, from the first on; int64."""

    keys: SortedKeys
    count: int
    stride: int

    def largest(self, k: int) -> Bracket:
        """Return the end of the `kept` largest elements."""
        if k <= 0:
            return Bracket(NOTHING, NOTHING)
        if k >= self.count:
            return Bracket(EVERYTHING, EVERYTHING)
        at, missing = divmod(k - 1, self.stride)
        first, *rest = (_edge(key) for key in self.keys[at : at + 2].tolist())
        if missing == 0:
            return Bracket(first, first)
        if not rest:
            return Bracket(first, EVERYTHING, missing)
        after = rest[0]
        return Bracket(first, Edge(after.bits, after.at - 1), missing)


def rank(delta: Delta) -> Ranking:
    """Rank the elements of a delta; sorts at most 4 M keys at a time, unless more are equal."""
    stride = 1 if delta.count <= EXACT else STRIDE
    if delta.count <= GROUP:
        whole = np.sort(_keys(delta, 0, delta.count))
        return Ranking(whole[::stride].copy(), delta.count, stride)
    counts = np.zeros(2**16, dtype=np.int64)  # of keys by their upper 16 bits
    for start in range(0, delta.count, BLOCK):
        keys = _keys(delta, start, start + BLOCK)
        counts += np.bincount(keys >> 47, minlength=2**16)
    sample, ranked = [], 0
    for low, high in _groups(counts):
        parts = []
        for start in range(0, delta.count, BLOCK):
            keys = _keys(delta, start, start + BLOCK)
            upper = keys >> 47
            parts.append(keys[(upper >= low) & (upper < high)])
        group = np.concatenate(parts)
        group.sort()
        sample.append(group[-ranked % stride :: stride].copy())
        ranked += len(group)
    return Ranking(np.concatenate(sample), delta.count, stride)


def keys_of(magnitude: Tensor, index: Tensor) -> Tensor:
    """Return keys of elements from their magnitudes, float32, and flat indices, int64."""
    return (
        (_TOP - magnitude.view(torch.int32))
        .to(torch.int64)
        .bitwise_left_shift_(32)
        .bitwise_or_(tie_order(index))
    )


def _groups(counts: np.ndarray) -> list[tuple[int, int]]:
    """Return consecutive ranges of upper bits that hold at most `GROUP` keys, or one value."""
    groups, first, size = [], 0, 0
    for value, count in enumerate(counts.tolist()):
        if size and size + count > GROUP:
            groups.append((first, value))
            first, size = value, 0
        size += count
    return [*groups, (first, len(counts))]


def _keys(delta: Delta, start: int, stop: int) -> np.ndarray:
    stop = min(stop, delta.count)
    magnitude = delta.part(start, stop).abs_().cpu()
    keys: np.ndarray = keys_of(magnitude, torch.arange(start, stop)).numpy()
    return keys


def _edge(key: int) -> Edge:
    return Edge(_TOP - (key >> 32), key & 0xFFFFFFFF)
