"""Writes a model's safetensors, as one file or as numbered shards with an index."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from evomerge.core import faults
from evomerge.core.errors import UserError

SHARD_BYTES = 5 * 10**9  # at most, unless one tensor is larger


def write_shards(
    folder: Path,
    tensors: Iterable[tuple[str, Tensor]],
    sizes: Mapping[str, int],
    stem: str = "model",
) -> None:
    """Write tensors as model.safetensors, or as numbered shards with an index.

    Args:
        folder: Where; it exists.
        tensors: (name, tensor) in the order of `sizes`; consumed one shard at a time.
        sizes: Bytes of each tensor, from which the shards are planned.
        stem: What the files are called.
    """
    cuts: list[list[str]] = [[]]
    shard_bytes = 0
    for name, size in sizes.items():
        if cuts[-1] and shard_bytes + size > SHARD_BYTES:
            cuts.append([])
            shard_bytes = 0
        cuts[-1].append(name)
        shard_bytes += size
    stream, weight_map = iter(tensors), {}
    for number, names in enumerate(cuts, 1):
        file = f"{stem}.safetensors"
        if len(cuts) > 1:
            file = f"{stem}-{number:05d}-of-{len(cuts):05d}.safetensors"
        shard = {}
        for expected in names:
            name, tensor = next(stream)
            assert name == expected, f"tensors must come in the order of sizes: {name}, {expected}"
            shard[name] = tensor.contiguous()
            weight_map[name] = file
        faults.reach("shard.write")
        try:
            save_file(shard, folder / file, metadata={"format": "pt"})
        except (SafetensorError, OSError) as error:
            raise UserError(f"{folder / file}: cannot write it: {_reason(error)}") from None
    if len(cuts) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=1))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())
