"""Lists a model's safetensors shards, each confined to its folder."""

from __future__ import annotations

import re
from pathlib import Path

from evomerge.checkpoint.files.document import read_json
from evomerge.checkpoint.files.folder import INDEX
from evomerge.core.errors import UserError

_SHARD = re.compile(r"[A-Za-z0-9._-]+\.safetensors")


def shards_of(folder: Path) -> dict[str, list[str]]:
    """Return a folder's shards, each confined to it, with the tensors that the index puts there."""
    index = folder / INDEX
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
