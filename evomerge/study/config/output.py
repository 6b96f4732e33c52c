"""Reads `output`: what becomes of the winner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evomerge.core.errors import UserError


@dataclass(frozen=True)
class OutputConfig:
    """The winner's output.

    Attributes:
        dtype: Of the merged weights, and of every candidate's; merging computes in float32, and
            `evaluate.dtype` is what the model computes in.
        save_model: Whether the winner is written as a model folder, or only as a recipe.
        adapter_rank: The largest rank of the adapter in ``best/adapter``; 0 writes none. Without
            it a study whose models are all LoRA adapters on the base writes one of their ranks
            together, if these are at most 64, else of the largest; other studies write none.
    """

    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    save_model: bool = True
    adapter_rank: int | None = None

    def check(self, where: str) -> None:
        """Refuse a rank below 0."""
        if self.adapter_rank is not None and self.adapter_rank < 0:
            raise UserError(
                f"{where}: output.adapter_rank: expected a rank, or 0 for no adapter, but got "
                f"{self.adapter_rank}"
            )
