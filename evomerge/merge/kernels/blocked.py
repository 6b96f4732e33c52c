"""Runs operations in PyTorch, block by block, so that intermediate values stay in the cache.

They run where there is no C++ compiler, on other devices, and for what `native` does not know.
The arithmetic is that of the plain functions, and so are the bits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import pad

from evomerge.merge.kernels.delta import Delta, loaded
from evomerge.merge.kernels.operation import Operation, Part, close_brackets
from evomerge.merge.kernels.ranking import Bracket, Edge, keys_of
from evomerge.methods.deltas import add_to_base, disjoint_deltas, l1_norm, positive, weighted_deltas
from evomerge.methods.random import TIE_RUN, tie_order

_CPU_BLOCK = 2**15  # elements: fastest of 2**13..2**18; larger temporaries are given back each time
_BLOCK = 2**24  # elsewhere: bounds scratch memory
_ROW = 128  # elements that are looked at together where few are sought


class BlockedKernels:
    """Kernels of PyTorch operations, on any device."""

    def run(self, operation: Operation, out: Tensor) -> bool:
        """Write the result into `out`, flat."""
        exact = close_brackets(operation, self)
        for start, stop in _blocks(out.numel(), out.device):
            out[start:stop].copy_(_merged(exact, start, stop))
        return True

    def between(self, delta: Delta, bracket: Bracket) -> Tensor:
        """Return the keys of the elements that a bracket leaves open, in any order."""
        low, high = bracket.maybe.bits, bracket.sure.bits
        if low == high:  # the same magnitude: in the runs whose places lie in between
            keys = _keys_of_runs(delta, bracket)
            return keys[(keys > bracket.sure.key) & (keys <= bracket.maybe.key)]
        parts = []
        for start, stop in _blocks(delta.count, delta.model.device):
            magnitude = delta.part(start, stop).abs_()
            near = positive(_value(high + 1) - magnitude)
            if low > 0:
                near *= positive(magnitude - _value(low - 1))
            rows = pad(near, (0, -len(near) % _ROW)).view(-1, _ROW).sum(dim=1).nonzero()  # (r, 1)
            index = (rows * _ROW + torch.arange(_ROW, device=rows.device)).reshape(-1)
            index = index[index < len(near)]
            parts.append(keys_of(magnitude[index], index + start))
        keys = torch.cat(parts)
        return keys[(keys > bracket.sure.key) & (keys <= bracket.maybe.key)]

    def norm(self, delta: Delta, part: Part) -> Tensor:
        """Return the L1 norm of a delta under a mask with closed brackets, shape ()."""
        masked = torch.empty(delta.count, device=delta.model.device)
        for start, stop in _blocks(delta.count, masked.device):
            masked[start:stop].copy_(_masked(delta.part(start, stop), part, start))
        return l1_norm(masked)


def _blocks(count: int, device: torch.device) -> Iterator[tuple[int, int]]:
    step = _CPU_BLOCK if device.type == "cpu" else _BLOCK
    yield from pairwise([*range(0, count, step), count])


def _keys_of_runs(delta: Delta, bracket: Bracket) -> Tensor:
    """Return the keys of all elements in the runs that a bracket of one magnitude leaves open."""
    device = delta.model.device
    places = tie_order(torch.arange(0, delta.count, TIE_RUN, device=device)) // TIE_RUN
    low, high = bracket.sure.at // TIE_RUN, bracket.maybe.at // TIE_RUN
    runs = ((places >= low) & (places <= high)).nonzero()  # (r, 1)
    index = (runs * TIE_RUN + torch.arange(TIE_RUN, device=device)).reshape(-1)
    index = index[index < delta.count]
    return keys_of(delta.picked(index).abs_(), index)


def _merged(operation: Operation, start: int, stop: int) -> Tensor:
    """Return one block, in float32."""
    working, parts = operation.working, operation.parts
    base = None if operation.base is None else loaded(operation.base, start, stop, working)
    if operation.kind == "copied":
        return loaded(parts[0].model, start, stop, working) if base is None else base
    models = [loaded(part.model, start, stop, working) for part in parts]
    weights = [part.weight for part in parts]
    if operation.kind == "linear":
        merged = torch.zeros_like(models[0])
        for model, weight in zip(models, merged.new_tensor(weights), strict=True):
            merged.addcmul_(model, weight)  # as linear.py does
        return merged if operation.divisor is None else merged.div_(operation.divisor)
    if operation.kind == "scaled":
        return models[0].mul_(weights[0])
    deltas = models if base is None else [model.sub_(base) for model in models]
    if operation.kind == "pair":
        merged = weights[0] * deltas[0] + weights[1] * deltas[1]
        if operation.divisor is not None:
            merged /= operation.divisor
        return merged if base is None else base + merged
    for delta, part in zip(deltas, parts, strict=True):
        _masked(delta, part, start)
        if part.divides:
            delta /= part.scale
        elif part.scale != 1:
            delta *= part.scale
    if base is None:
        return deltas[0]  # pruned
    if operation.kind == "weighted":
        mixed = weighted_deltas(deltas, weights, normalize=False)
        if operation.divisor is not None:
            mixed /= operation.divisor
    else:
        mixed = disjoint_deltas(
            deltas,
            weights,
            normalize=operation.normalize,
            consensus=operation.consensus,
            aggregate=operation.aggregate,
        )
    return add_to_base(base, mixed, operation.lambda_)


def _masked(delta: Tensor, part: Part, start: int) -> Tensor:
    """Zero in place what a mask drops of the elements from `start` on."""
    if part.dropping is not None:
        dropping = part.dropping
        uniforms = dropping.random.uniform(
            dropping.model_index, delta.shape, start=start, device=delta.device
        )
        return delta.mul_(positive(dropping.density - uniforms))
    if part.bracket is None:
        return delta
    magnitude = delta.abs()
    total = part.model.numel()
    mask = _within(part.bracket.sure, magnitude, start, total)
    if part.outlier is not None:
        mask -= _within(part.outlier, magnitude, start, total)
    return delta.mul_(mask)


def _within(edge: Edge, magnitude: Tensor, start: int, total: int) -> Tensor:
    """Return 1.0 for each element up to an edge; a block starts with a run."""
    count = len(magnitude)
    every, split, beyond = _least_of_runs(edge, total, magnitude.device)
    least = every[start // TIE_RUN : -(-(start + count) // TIE_RUN)]
    if count % TIE_RUN:
        over = magnitude - least.repeat_interleave(TIE_RUN)[:count]
    else:
        over = (magnitude.view(-1, TIE_RUN) - least[:, None]).view(-1)
    run = split - start // TIE_RUN
    if 0 <= run < len(least):  # in this one the edge's own place decides
        rest = slice(run * TIE_RUN + edge.at % TIE_RUN + 1, (run + 1) * TIE_RUN)
        over[rest] = magnitude[rest] - beyond
    return over.sign_().clamp_(min=0)  # `positive`, in place


@lru_cache(maxsize=8)  # the blocks of a tensor, one after the other
def _least_of_runs(edge: Edge, total: int, device: torch.device) -> tuple[Tensor, int, float]:
    """Return what magnitudes have to exceed in each run, the run that an edge splits, and the
    number that holds behind the edge; -1 for no run.
    """
    places = tie_order(torch.arange(0, total, TIE_RUN, device=device))
    below, beyond = (_value(bits - 1) if bits > 0 else -1.0 for bits in (edge.bits, edge.bits + 1))
    split = ((places <= edge.at) & (places + TIE_RUN > edge.at + 1)).nonzero().flatten().tolist()
    return torch.where(places > edge.at, beyond, below), [*split, -1][0], beyond


def _value(bits: int) -> float:
    """Return the float32 number of these bits."""
    number: float = struct.unpack("<f", struct.pack("<I", bits))[0]
    return number
