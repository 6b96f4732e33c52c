"""Reads `workers`: where candidates are built and scored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from evomerge.core.errors import UserError
from evomerge.core.timespan import seconds


@dataclass(frozen=True)
class WorkersConfig:
    """The workers that build and score candidates.

    Attributes:
        backend: ``local`` child processes, or ``ray`` actors.
        count: How many; their number never changes what a search finds. ``all``: as many as there
            is room for, by GPUs where there are any, else by CPUs. On a Ray cluster nodes that
            join during the run are used, and nodes that leave are survived.
        device: ``cpu``, ``cuda``, ``cuda:1``, or ``auto``: a GPU where there is one.
        threads: CPU threads of each worker.
        gpus: Of each worker: 1 is one to itself, 0.5 shares one between two; 2 or more hold one
            live model together, its layers spread over them. Ray reserves them; a local worker
            takes that many of the visible ones (``CUDA_VISIBLE_DEVICES``, or all), in turn.
        parents: Where base and parents are for a worker on a GPU: ``device``, or ``host``, where
            they are mapped from their files and every candidate copies them tensor by tensor, so
            that the GPU holds one model; ``None`` is ``device`` while that leaves a quarter of it
            free. On a CPU they are always mapped.
        candidate: How a worker holds one: ``whole``, or ``streamed``, where each layer is made from
            the parents when all items have come to it, and forgotten behind them, so that the
            device holds two layers; ``None`` is ``whole`` where nine tenths of the device hold
            the weights. Streamed candidates write no answers and have no gradient.
        ray_address: A cluster to join, ``auto`` for the one on this machine; ``None`` starts one.
        price_per_hour: What one worker costs an hour, in any currency; the forecast and the status
            then say what the study costs, and `search.max_cost` can end it.
        patience: How long an answer may take before enough are known to say what is usual; then
            ten times that. A task or template that never ends stops the study after it.
    """

    backend: Literal["local", "ray"] = "local"
    count: int | Literal["all"] = 1
    device: str = "auto"
    threads: int = 1
    gpus: float = 0.0
    parents: Literal["device", "host"] | None = None
    candidate: Literal["whole", "streamed"] | None = None
    ray_address: str | None = None
    price_per_hour: float | None = None
    patience: str = "2h"

    @property
    def patience_seconds(self) -> float:
        """The patience in seconds."""
        return seconds(self.patience, "workers.patience") or 0.0

    @property
    def least(self) -> int:
        """The count; 1 for ``all``, of which nobody knows how many before they are there."""
        return 1 if self.count == "all" else self.count

    def check(self, where: str) -> None:
        """Refuse numbers out of range."""
        seconds(self.patience, f"{where}: workers.patience")
        if self.least < 1 or self.threads < 1 or self.gpus < 0:
            raise UserError(
                f"{where}: workers: expected count and threads of at least 1 and gpus of at least 0"
            )
        if self.price_per_hour is not None and not 0 < self.price_per_hour < math.inf:
            raise UserError(
                f"{where}: workers.price_per_hour: expected a price above 0, "
                f"but got {self.price_per_hour}"
            )
        if self.price_per_hour is not None and self.count == "all":
            raise UserError(
                f"{where}: workers.price_per_hour: nobody knows what `count: all` costs an hour; "
                "set a number of workers, or leave the price out"
            )
        if self.gpus > 1 and self.gpus % 1:
            raise UserError(
                f"{where}: workers.gpus: expected a share up to 1, or a whole number, "
                f"but got {self.gpus}"
            )
        if self.gpus > 1 and ":" in self.device:
            raise UserError(
                f"{where}: workers.device: {self.device} is one device, but gpus asks for "
                f"{self.gpus:g}; expected auto or cuda"
            )
        if self.gpus > 1 and self.candidate == "streamed":
            raise UserError(
                f"{where}: workers.candidate: streamed candidates run on one GPU, but gpus asks "
                f"for {self.gpus:g}; set gpus: 1, or leave candidate out"
            )
