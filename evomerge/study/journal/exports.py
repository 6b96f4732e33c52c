"""Describes what an export wrote: the model, and an adapter beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class AdapterExport:
    """The export of a merge of adapters as one adapter.

    Attributes:
        folder: In the run folder; ``None`` where it cannot be had.
        rank: The largest of a layer.
        asked_rank: ``output.adapter_rank``, if it was given.
        exact: Whether it misses no more than float32 rounds off.
        error: Relative Frobenius norm of what it misses of the merge's change.
        sentence: Rank and error, or why there is none.
    """

    folder: str | None
    rank: int = 0
    asked_rank: int | None = None
    exact: bool = False
    error: float = 0.0
    sentence: str = ""


@dataclass(frozen=True)
class ModelExport:
    """Describes what was written as the model.

    Attributes:
        parameters: How many it has.
        parameters_per_token: How many of them a token takes; fewer in a mixture of experts.
        code: SHA-256 of each Python file that it brings and that has to run for it.
    """

    parameters: int
    parameters_per_token: int
    code: Mapping[str, str] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """What is unlike a dense model of transformers' own; empty where nothing is."""
        parts = []
        if self.parameters_per_token != self.parameters:
            taken = f"{self.parameters_per_token:,}"
            parts.append(f"{self.parameters:,} parameters, of which a token takes {taken}.")
        if self.code:
            files = ", ".join(f"{name} (SHA-256 {sha256})" for name, sha256 in self.code.items())
            parts.append(f"It loads only with `trust_remote_code`, which runs {files}.")
        return " ".join(parts)
