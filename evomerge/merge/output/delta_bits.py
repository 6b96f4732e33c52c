"""Stores a tensor as what differs from another: a bit mask and values, an exclusive or, or a sum.

``sparse``: a bit for each element and the elements that differ, where fewer than half do; ``xor``:
the X"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from evomerge.checkpoint.store import Factors, Files
from evomerge.core.errors import UserError
from evomerge.core.threads import one_thread
from evomerge.merge.low_rank import largest_parts

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes each


def way_of(tensor: Tensor, origin: Tensor | None) -> tuple[str, int]:
    """Return how a tensor is stored, and in how many elements it differs from the base's."""
    if origin is None:
        return "whole", tensor.numel()
    count = int((_bits(tensor) != _bits(origin)).sum())
    if not count:
        return "equal", 0
    return ("sparse" if 2 * count < tensor.numel() else "xor"), count


def parts_of(
    name: str, tensor: Tensor, origin: Tensor | None, how: str
) -> Iterator[tuple[str, Tensor]]:
    """Yield what is stored of a tensor, by the names that it has in the file."""
    if origin is None or how == "whole":
        yield f"{name}.whole", tensor
        return
    ours, theirs = _bits(tensor), _bits(origin)
    if how == "xor":
        yield f"{name}.xor", ours ^ theirs
        return
    differs = ours != theirs
    yield f"{name}.mask", packed(differs)
    yield f"{name}.values", ours[differs]


def restored(name: str, how: str, origin: Tensor | None, parts: Files, model: str | None) -> Tensor:
    """Return a tensor from what is stored of it and the base's, (same shape); reads `parts`.

    Args:
        name: The tensor.
        how: The way it is stored in, or ``tall``: a sum of deltas, and a mask for the model.
        origin: The base's tensor; ``None`` where it has none.
        parts: What is stored.
        model: Whose mask, for ``tall``.

    Raises:
        UserError: Something is missing, or does not fit the base's tensor.
    """
    if how == "whole":
        return _part(parts, f"{name}.whole")
    if origin is None:
        raise UserError(f"{parts.folder}: the base has no {name}: the delta is of another base")
    if how == "equal":
        return origin
    if how == "low_rank":
        factors = Factors(_part(parts, f"{name}.left"), _part(parts, f"{name}.right"))
        rows, columns = factors.left.shape[0], factors.right.shape[1]
        fits = (rows, columns) == tuple(origin.shape)
        _check_fits(name, fits and factors.left.shape[1] == factors.right.shape[0], parts)
        return with_factors(origin, factors)
    if how == "xor":
        other = _part(parts, f"{name}.xor")
        _check_fits(name, other.numel() == origin.numel(), parts)
        return (_bits(origin) ^ other.reshape(-1)).view(origin.dtype).reshape(origin.shape)
    key = f"{name}.mask" if how == "sparse" else f"{name}.mask.{model}"
    mask = _unpacked(_part(parts, key), origin.numel())
    _check_fits(name, mask is not None, parts)
    assert mask is not None
    if how == "tall":
        total = _part(parts, f"{name}.sum")
        _check_fits(name, total.shape == origin.shape, parts)
        served = torch.where(mask.reshape(origin.shape), origin.float() + total, origin.float())
        return served.to(origin.dtype)
    values = _part(parts, f"{name}.values")
    _check_fits(name, values.numel() == int(mask.sum()), parts)
    bits = _bits(origin).clone()
    bits[mask] = values
    return bits.view(origin.dtype).reshape(origin.shape)


def largest_changes(tensor: Tensor, origin: Tensor | None, density: float) -> Tensor:
    """Return a tensor with the largest changes of a share of its elements, else the base's."""
    if origin is None or not tensor.is_floating_point():
        return tensor
    changes = (tensor.double() - origin.double()).abs().reshape(-1)
    keep = max(1, int(density * changes.numel()))
    if keep >= changes.numel():
        return tensor
    chosen = torch.zeros(changes.numel(), dtype=torch.bool)
    chosen[changes.topk(keep).indices] = True
    return torch.where(chosen.reshape(tensor.shape), tensor, origin)


def factors_of(tensor: Tensor, origin: Tensor, rank: int) -> Factors:
    """Return the closest product of a rank to a matrix's change, in the matrix's dtype."""
    parts = largest_parts(tensor.float() - origin.float(), rank)
    return Factors(parts.outputs.to(tensor.dtype), parts.inputs.to(tensor.dtype))


def with_factors(origin: Tensor, factors: Factors) -> Tensor:
    """Return the base's matrix with what two factors add, in its dtype."""
    with one_thread():
        return (origin.double() + factors.left.double() @ factors.right.double()).to(origin.dtype)


def _bits(tensor: Tensor) -> Tensor:
    """Return a tensor's bits as integers of its width, flat."""
    return tensor.contiguous().reshape(-1).view(_INTEGERS[tensor.element_size()])


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors of one dtype and shape are equal, bit for bit (NaN is itself)."""
    return torch.equal(_bits(a), _bits(b))


def packed(mask: Tensor) -> Tensor:
    """Pack a mask eight elements to a byte, the first in the lowest bit."""
    return torch.from_numpy(np.packbits(mask.reshape(-1).numpy(), bitorder="little"))


def _unpacked(packed: Tensor, count: int) -> Tensor | None:
    if packed.dtype != torch.uint8 or packed.numel() != math.ceil(count / 8):
        return None
    bits = np.unpackbits(packed.numpy(), count=count, bitorder="little")
    return torch.from_numpy(bits.astype(bool))


def _check_fits(name: str, fits: bool, parts: Files) -> None:
    if not fits:
        raise UserError(f"{parts.folder}: what is stored of {name} does not fit the base's tensor")


def _part(parts: Files, key: str) -> Tensor:
    if key not in parts.tensors:
        raise UserError(f"{parts.folder}: {key} is missing: the delta is not whole")
    return parts.tensor(key)
