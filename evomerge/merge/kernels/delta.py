"""Computes a model's delta to its base, part by part, in the recipe's arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Delta:
    """Model minus base, or the model itself; nothing is computed until a part is asked for.

    Attributes:
        base: Flat, or ``None``.
        model: Flat, of the base's length.
        working: What both are rounded to first; the difference is formed in float32.
    """

    base: Tensor | None
    model: Tensor
    working: torch.dtype

    @property
    def count(self) -> int:
        """The number of its elements."""
        return self.model.numel()

    def part(self, start: int, stop: int) -> Tensor:
        """Return the elements from `start` to before `stop`, in memory of their own, float32."""
        part = loaded(self.model, start, stop, self.working)
        return (
            part if self.base is None else part.sub_(loaded(self.base, start, stop, self.working))
        )

    def picked(self, index: Tensor) -> Tensor:
        """Return the elements of these flat indices, float32."""
        part = self.model[index].to(self.working).float()
        return part if self.base is None else part.sub_(self.base[index].to(self.working).float())


def loaded(tensor: Tensor, start: int, stop: int, working: torch.dtype) -> Tensor:
    """Copy a part of a flat tensor, rounded to a recipe's dtype, to float32."""
    part = tensor[start:stop].to(working)
    return part.clone() if part.dtype == torch.float32 == tensor.dtype else part.float()
