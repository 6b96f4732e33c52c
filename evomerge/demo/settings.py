"""Holds the settings of a zoo: a seed, an architecture, a size and step counts."""

from __future__ import annotations

from dataclasses import dataclass

from evomerge.core.errors import UserError, unknown

ARCHITECTURES = ("llama", "qwen3", "gpt2")
HEAD_WIDTH = 32  # the narrowest head that vLLM's CPU build runs


@dataclass(frozen=True)
class Settings:
    """The settings of a zoo's training; equal settings give bit-identical weights on one machine.

    Attributes:
        seed: Seeds the initial weights and every example; experts derive theirs from it.
        architecture: One of `ARCHITECTURES`.
        hidden: Width of the residual stream, a multiple of `HEAD_WIDTH`.
        layers: Number of transformer layers.
        base_steps: Optimizer steps for the base.
        expert_steps: Optimizer steps for each expert, starting from the base.
        rows: Rows of 36 tokens in a step.
    """

    seed: int = 0
    architecture: str = "llama"
    hidden: int = 64
    layers: int = 6
    base_steps: int = 700
    expert_steps: int = 120
    rows: int = 44

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise UserError(unknown("architecture", self.architecture, ARCHITECTURES))
        if self.hidden < HEAD_WIDTH or self.hidden % HEAD_WIDTH:
            raise UserError(
                f"expected `hidden` to be a multiple of {HEAD_WIDTH} (the width of a head), "
                f"but got {self.hidden}"
            )
        for name in ("layers", "base_steps", "expert_steps", "rows"):
            if getattr(self, name) < 1:
                raise UserError(f"expected `{name} >= 1`, but got {getattr(self, name)}")
        if self.seed < 0:
            raise UserError(f"expected `seed >= 0`, but got {self.seed}")
