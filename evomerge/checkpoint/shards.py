"""A model's safetensors shards: which there are, each confined to the folder, and writing them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from evomerge import faults
from evomerge.checkpoint.document import read_json
from evomerge.errors import UserError

_SHARD = re.compile(r"[A-Za-z0-9._-]+\.safetensors")


def shards_of(folder: Path) -> dict[str, list[str]]:
    """A folder's shards, each confined to it, and the tensors that the index places in each."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return _indexed(index)
    if (folder / "model.safetensors").is_file():
        return {"model.safetensors": []}
    files = sorted(file.name for file in folder.glob("*.safetensors"))
    if not files:
        pickled = next((f.name for f in folder.iterdir() if f.suffix in (".bin", ".pt")), None)
        hint = (
            f"; {pickled} is a pickle, which is never loaded: convert it to safetensors first"
            if pickled
            else ""
        )
        raise UserError(f"{folder}: expected safetensors weights, but there are none{hint}")
    return {file: [] for file in files}


def write_shards(
    folder: Path,
    tensors: Iterable[tuple[str, Tensor]],
    sizes: Mapping[str, int],
    max_shard_bytes: int = 5 * 10**9,
) -> None:
    """Write tensors as model.safetensors, or as numbered shards with an index.

    Args:
        folder: Where; it exists.
        tensors: (name, tensor) in the order of `sizes`; consumed one shard at a time.
        sizes: Bytes of each tensor, from which the shards are cut beforehand.
        max_shard_bytes: A shard holds at most this much, but at least one tensor.
    """
    cuts: list[list[str]] = [[]]
    held = 0
    for name, size in sizes.items():
        if cuts[-1] and held + size > max_shard_bytes:
            cuts.append([])
            held = 0
        cuts[-1].append(name)
        held += size
    stream, weight_map = iter(tensors), {}
    for number, names in enumerate(cuts, 1):
        file = "model.safetensors"
        if len(cuts) > 1:
            file = f"model-{number:05d}-of-{len(cuts):05d}.safetensors"
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
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())


def _indexed(index: Path) -> dict[str, list[str]]:
    try:
        weight_map = dict(read_json(index)["weight_map"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{index}: expected an index with a weight_map: {error}") from None
    shards: dict[str, list[str]] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or not _SHARD.fullmatch(file):
            raise UserError(
                f"{index}: shard name {str(file)[:80]!r} would leave the model's folder"
            )
        shards.setdefault(file, []).append(name)
    for file in shards:
        if not (index.parent / file).is_file():
            raise UserError(f"{index.parent / file}: a shard that the index names is missing")
    return dict(sorted(shards.items()))
