"""Draws random numbers that depend on what they are for, never on who draws them or when."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor

_PAGE = 2**32  # indices with one key; a tensor this large takes a second key
_CPU_BLOCK = 2**15  # indices hashed at a time: fastest of 2**12..2**20, the integers stay in cache
_BLOCK = 2**24  # elsewhere: bounds the scratch memory at 400 MB
_LOW_32 = 0xFFFFFFFF
TIE_RUN = 2**7  # elements that stay together where ties are broken; kernels.cpp: BLOCK
_RUN_BITS = 25  # 2**32 elements in runs of 2**7
_RUNS = 2**_RUN_BITS - 1
_TIE_KEY = 0x13C6EF3  # 2**25 over the golden ratio, so that the first run is not the first
_TIE_FACTORS = (0x1EB352D, 0x06CA68B, 0x1EB352D)  # lowbias32's constants, cut to 25 bits


class CounterRandom:
    """Uniform numbers for one tensor of a merge, as a pure function of where they go.

    A number is a hash of (seed, tensor name, model index, flat index), so that the same recipe
    draws the same masks on any worker, device, shard or thread, in any order, and any part of a
    tensor can be drawn alone. No generator is advanced, so nothing needs to be restored.

    Attributes:
        seed: The recipe's seed; any integer.
        name: The tensor's name in the merged model.
    """

    def __init__(self, seed: int, name: str) -> None:
        self.seed = seed
        self.name = name

    def uniform(
        self,
        model_index: int,
        shape: Sequence[int],
        *,
        start: int = 0,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw float32 numbers in [0, 1), multiples of 2**-24, for one model's tensor.

        Args:
            model_index: Which of the merged models the numbers are for, from 0.
            shape: Shape of the result.
            start: Flat index of the first number, for drawing a part of a tensor.
            device: Where to draw; ``None`` is the CPU. The numbers do not depend on it.

        >>> draw = CounterRandom(seed=0, name="lm_head.weight")
        >>> whole = draw.uniform(0, (2, 3))
        >>> bool((draw.uniform(0, (3,), start=3) == whole[1]).all())
        True
        """
        result = torch.empty(tuple(shape), dtype=torch.float32, device=device or "cpu")
        flat = result.view(-1)  # (n,)
        block = _CPU_BLOCK if flat.device.type == "cpu" else _BLOCK
        done = 0
        while done < flat.numel():
            page, first = divmod(start + done, _PAGE)
            count = min(block, flat.numel() - done, _PAGE - first)
            index = torch.arange(first, first + count, dtype=torch.int64, device=flat.device)
            flat[done : done + count] = _hash(index, *self.keys(model_index, page)) >> 8
            done += count
        return result.mul_(2.0**-24)

    def normal(self, model_index: int, shape: Sequence[int]) -> Tensor:
        """Draw from the standard normal distribution, by the inverse of its distribution function.

        Args:
            model_index: Which of the merged models the numbers are for, from 0.
            shape: Shape of the result.
        """
        inner = (2.0 * self.uniform(model_index, shape) - 1.0).clamp(-1 + 1e-6, 1 - 1e-6)
        return torch.erfinv(inner).mul_(2.0**0.5)

    def keys(self, model_index: int, page: int = 0) -> tuple[int, int]:
        """Return the hash's two 32-bit keys for a model and 2**32 indices, the same everywhere."""
        text = f"{self.seed}/{model_index}/{page}/{self.name}".encode()
        digest = blake2b(text, digest_size=8).digest()
        return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")

    def __repr__(self) -> str:
        return f"CounterRandom(seed={self.seed}, name={self.name!r})"


def tie_order(index: Tensor) -> Tensor:
    """Return the places of elements among others of equal size: pseudo-random, the same everywhere.

    Runs of 128 elements follow each other in the order of a hash of their number; within a run the
    lower index comes first. So neither the first rows of a matrix nor its last ones win all ties,
    while a place is one number for a run, which costs a pass over a tensor nothing. The map is
    one-to-one, and depends on nothing but the index.

    Args:
        index: Flat indices, int64.
    """
    run = index >> 7
    page, place = run >> _RUN_BITS, (run & _RUNS) ^ _TIE_KEY
    for factor in _TIE_FACTORS:  # each step maps 25 bits to 25 bits, one to one
        place = place * factor & _RUNS
        place ^= place >> 13
    result: Tensor = page << 32 | place << 7 | index & (TIE_RUN - 1)
    return result


def _hash(index: Tensor, key: int, second_key: int) -> Tensor:
    """Map each 32-bit index to a 32-bit word; one-to-one for a given pair of keys.

    A single round would make the streams of two keys the same numbers in another order
    (index ^ key); the second key, between the rounds, ends that.
    """
    return _mix(_mix(index.bitwise_xor_(key)).bitwise_xor_(second_key))


def _mix(x: Tensor) -> Tensor:
    """Apply the lowbias32 mixer (Wellons 2018, https://nullprogram.com/blog/2018/07/31/) in place.

    Its second constant, 0x846CA68B, is written modulo 2**32 as a negative number, so that no
    product of a 32-bit word and a constant leaves the range of int64.
    """
    x.bitwise_xor_(x >> 16)
    x.mul_(0x7FEB352D).bitwise_and_(_LOW_32)
    x.bitwise_xor_(x >> 15)
    x.mul_(0x846CA68B - 2**32).bitwise_and_(_LOW_32)
    return x.bitwise_xor_(x >> 16)
