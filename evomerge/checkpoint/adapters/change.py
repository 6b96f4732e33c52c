"""Changes one tensor as PEFT's `merge_and_unload` does: by a product, a magnitude, or rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from evomerge.checkpoint.store import Factors
from evomerge.core.threads import one_thread

_BLOCK = 1 << 18  # elements of a product that are computed and added together
Read = Callable[[str], Tensor]  # an adapter's tensor by its key


class Experts(NamedTuple):
    """The part of fused experts that a tensor is; factors of all experts lie side by side.

    PEFT shapes them (rank * size, in) and (out, rank * size): A by expert, then rank; B by rank,
    then expert.

    Attributes:
        size: How many experts the layer has.
        expert: The one whose tensor it is; ``None`` for the tensor of all, with three dimensions.
        rows: Of that expert's product, those that the tensor holds, first and end.
    """

    size: int
    expert: int | None = None
    rows: tuple[int, int] | None = None


@dataclass(frozen=True)
class Change:
    """An adapter's change of one tensor, by the keys of its own tensors.

    Attributes:
        left: Key of the factor whose rows are the tensor's, once `transposed` is applied.
        right: Key of the other one.
        scale: The number that the product, or what is `added`, is multiplied by.
        transposed: Whether the tensor is the transpose of B A (Conv1D, embeddings).
        experts: The part of fused experts that the tensor is; ``None`` for a plain layer.
        magnitude: Key of DoRA's magnitude vector (Liu 2024, https://arxiv.org/abs/2402.09353).
        added: Key of what is added as it is: the bias of B.
        replaced_by: Key of the tensor that takes the model's place, before the product is added.
        rows: Key of the rows that take the place of `row_ids` (trainable tokens).
        row_ids: The numbers of these rows.
    """

    left: str | None = None
    right: str | None = None
    scale: float = 1.0
    transposed: bool = False
    experts: Experts | None = None
    magnitude: str | None = None
    added: str | None = None
    replaced_by: str | None = None
    rows: str | None = None
    row_ids: tuple[int, ...] = ()

    @property
    def is_product(self) -> bool:
        """Return whether it adds a product of two factors, and does nothing else."""
        others = (self.magnitude, self.added, self.replaced_by, self.rows)
        whole = self.experts is not None and self.experts.expert is None
        return self.left is not None and not whole and all(key is None for key in others)

    @property
    def computes(self) -> bool:
        """Return whether the result is computed, in float32, rather than read."""
        return any(key is not None for key in (self.left, self.added, self.rows))


def changed(change: Change, host: Callable[[], Tensor], read: Read) -> Tensor:
    """Return the tensor with the change made, in float32 unless it was read as it is.

    Args:
        change: The change.
        host: Gives the model's tensor.
        read: Gives the adapter's.
    """
    tensor = host() if change.replaced_by is None else read(change.replaced_by)
    if not change.computes:
        return tensor
    if tensor.dtype == torch.float64:
        tensor = tensor.float()
    if change.rows is not None:
        tensor = tensor.float()
        places = torch.tensor(change.row_ids)
        return tensor.index_copy(0, places, read(change.rows).float())
    if change.added is not None:
        return change.scale * read(change.added).float() + tensor
    tensor = _with_product(change, read, tensor)
    if change.magnitude is None:
        return tensor
    # DoRA, eq. 5: every output's weights get the norm that was learnt for them
    across = 0 if change.transposed else 1
    with one_thread():
        norm = torch.linalg.vector_norm(tensor, dim=across, keepdim=True)
    magnitude = read(change.magnitude).float().reshape(norm.shape)
    result: Tensor = magnitude / norm * tensor
    return result


def _with_product(change: Change, read: Read, tensor: Tensor) -> Tensor:
    """Add scale * B A to a tensor, in float32.

    Rows go in blocks that stay in the cache: a third of the time of whole tensors.
    """
    if change.experts is not None and change.experts.expert is None:
        return product(change, read).add_(tensor)
    second, first = _plain_factors(change, read)
    result = torch.empty(tensor.shape, dtype=torch.float32)
    out, before = (result.T, tensor.T) if change.transposed else (result, tensor)
    rows = max(1, _BLOCK // first.shape[1])
    with one_thread():
        for i in range(0, len(out), rows):
            block = (second[i : i + rows] @ first).mul_(change.scale)
            out[i : i + rows] = block.add_(before[i : i + rows].float())
    return result


def product(change: Change, read: Read) -> Tensor:
    """Return scale * B A in float32, in the layout of the tensor that it is added to."""
    assert change.left is not None, "a change without factors has no product"
    assert change.right is not None
    if change.experts is not None and change.experts.expert is None:
        count = change.experts.size
        parts = [_of_expert(change, read, expert) for expert in range(count)]
        with one_thread():
            products = torch.stack([second @ first for second, first in parts])  # (count, out, in)
        products.mul_(change.scale)
        return products.transpose(1, 2).contiguous() if change.transposed else products
    second, first = _plain_factors(change, read)
    with one_thread():
        result = (second @ first).mul_(change.scale)
    return result.T.contiguous() if change.transposed else result


def factors(change: Change, read: Read) -> Factors:
    """Return the product's two factors, the scale in the left one."""
    second, first = _plain_factors(change, read)
    if change.transposed:
        return Factors(first.T * change.scale, second.T)
    return Factors(second * change.scale, first)


def _plain_factors(change: Change, read: Read) -> tuple[Tensor, Tensor]:
    """Return B and A in float32: of the layer, or of one expert and those rows that it holds."""
    if change.experts is None:
        assert change.left is not None, "a change without factors has none"
        assert change.right is not None
        return read(change.left).float(), read(change.right).float()
    assert change.experts.expert is not None, "fused experts have a product each"
    second, first = _of_expert(change, read, change.experts.expert)
    if change.experts.rows is not None:
        second = second[slice(*change.experts.rows)]
    return second, first


def _of_expert(change: Change, read: Read, expert: int) -> tuple[Tensor, Tensor]:
    assert change.experts is not None
    assert change.left is not None
    assert change.right is not None
    second, first = read(change.left).float(), read(change.right).float()
    count = change.experts.size
    return (
        second.reshape(second.shape[0], -1, count)[:, :, expert],  # (out, rank)
        first.reshape(count, -1, first.shape[1])[expert],  # (rank, in)
    )
