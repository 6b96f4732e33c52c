"""Reads `output`: what becomes of the winner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class OutputConfig:
    """The winner's output; `dtype` is also what every candidate is scored in.

    Attributes:
        dtype: Of the merged weights, and of every candidate's; arithmetic is in float32.
        save_model: Whether the winner is written as a model folder, or only as a recipe.
    """

    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    save_model: bool = True
