"""Adds up the bytes that a study's workers hold, from the headers of its models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from evomerge.checkpoint.architecture import locate, stack_of, vocabulary_size
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.dtypes import CODES, ELEMENT_BYTES
from evomerge.checkpoint.names import split
from evomerge.evaluate.likelihood.batches import MAX_BATCH_LOGITS
from evomerge.evaluate.likelihood.packing import ROW_TOKENS
from evomerge.study.config import StudyConfig


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a study's workers hold, of their device's memory or of the machine's.

    Attributes:
        live: The model that candidates are built into, of each worker.
        parents: Base and parents, of each worker on a GPU; once on a CPU, mapped from their files.
        batch: Logits of the largest batch, of each worker.
        gradient: What a gradient takes besides, of each worker; 0 without one.
        disk: What the study writes: model, or none.
        cache: What rankings by magnitude take on disk, if a method wants them.
        is_shared: Whether workers share the parents.
        computed: How many parents are adapters that a GPU holds as whole models.
        making: What a worker needs besides while it runs a parent on its own rows, before the
            search.
        recalled: What it keeps of products that candidates have in common.
        statistics: What parents' rows say of them, on disk.
        tile: Parents' bytes of the largest tensor: what a worker on a GPU holds of them at a time
            if they stay in main memory.
        layers: The two largest neighbours of layers, embeddings and head: what a worker holds of a
            streamed candidate.
    """

    live: int
    parents: int
    batch: int
    gradient: int
    disk: int
    cache: int
    is_shared: bool
    computed: int = 0
    making: int = 0
    recalled: int = 0
    statistics: int = 0
    tile: int = 0
    layers: int = 0

    def total(self, workers: int) -> int:
        """Return the bytes that so many workers hold together."""
        if self.is_shared:
            return self.parents + workers * self.each
        return workers * (self.parents + self.each)

    @property
    def each(self) -> int:
        """The most bytes of one worker's own at a time."""
        return self.live + max(self.batch + self.gradient + self.recalled, self.making)


def memory_plan(
    config: StudyConfig, checkpoints: Mapping[str, Checkpoint], on_gpu: bool, gradient: int = 0
) -> MemoryPlan:
    """Add up what the workers of a study hold.

    Args:
        config: The study.
        checkpoints: The base and the parents, by name.
        on_gpu: Whether workers hold parents on a device of their own.
        gradient: What a gradient takes besides the weights, in bytes.
    """
    base = checkpoints[config.base_model]
    n_parameters = sum(info.numel for info in base.tensors.values())
    base_files = set(base.store.files)
    parents, computed, tiles = 0, 0, Counter[str]()
    for name, checkpoint in checkpoints.items():
        is_adapter = split(name)[1] is not None
        if is_adapter and not on_gpu:  # its products are made tensor by tensor, and forgotten
            files = [file for file in checkpoint.store.files if file not in base_files]
            parents += sum(file.stat().st_size for file in files)
        else:
            sizes = {
                tensor: info.numel * ELEMENT_BYTES[info.dtype]
                for tensor, info in checkpoint.tensors.items()
            }
            tiles.update(sizes)
            parents += sum(sizes.values())
            computed += is_adapter
    rows = config.evaluate.rows_per_batch
    vocabulary = vocabulary_size(base.config) or 0
    return MemoryPlan(
        live=n_parameters * ELEMENT_BYTES[CODES[config.scored_in]],
        parents=parents,
        batch=4 * min(MAX_BATCH_LOGITS, rows * ROW_TOKENS * vocabulary),
        gradient=gradient,
        disk=n_parameters * ELEMENT_BYTES[CODES[config.output.dtype]] * config.output.save_model,
        cache=n_parameters * len(config.models) // 8,
        is_shared=not on_gpu,
        computed=computed,
        tile=max(tiles.values(), default=0),
        layers=_two_layers(base) * ELEMENT_BYTES[CODES[config.scored_in]],
    )


def _two_layers(base: Checkpoint) -> int:
    """Return the most parameters of two parts that follow each other: layers, or what is no layer.

    A tied head is not stored, and runs by itself; whatever follows, two of the largest are enough.
    """
    parts = Counter[str]()
    for name, info in base.tensors.items():
        location = locate(name)
        part = location.component if location.layer is None else f"{stack_of(name)}{location.layer}"
        parts[part] += info.numel
    return sum(sorted(parts.values())[-2:])
