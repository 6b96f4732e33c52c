"""Lists a model's safetensors shards, each confined to its folder."""

from __future__ import annotations

import re
from pathlib import Path

from evomerge.checkpoint.files.document import read_json
from evomerge.checkpoint.files.folder import ADAPTER_WEIGHTS, INDEX
from evomerge.core.errors import UserError

SINGLE = "model.safetensors"
_SHARD = re.compile(r"[A-Za-z0-9._-]+\.safetensors")
_NUMBERED = re.compile(r"([A-Za-z0-9._-]+)-(\d{1,6})-of-(\d{1,6})\.safetensors")


def shards_of(folder: Path, named: str | None = None) -> dict[str, list[str]]:
    """A folder's shards, each confined to it, and the tensors that the index places in each.

    As transformers chooses them: the file that the config names, else model.safetensors, whatever
    index and shards are beside it, else the shards of the index. What transformers would not load
    is read if there is no doubt: one complete series of shards, or one file.

    Args:
        folder: A model's folder.
        named: `transformers_weights` of its config.json.

    Raises:
        UserError: There are none, or it is not clear which are the model's.
    """
    if named is not None:
        if not _SHARD.fullmatch(named.removesuffix(".index.json")):
            raise UserError(
                f"{folder}: config.json: transformers_weights {named[:80]!r} would leave the folder"
            )
        return _indexed(folder / named) if named.endswith(".index.json") else {named: []}
    if (folder / SINGLE).is_file():
        return {SINGLE: []}
    if (folder / INDEX).is_file():
        return _indexed(folder / INDEX)
    return {file: [] for file in _unlisted(folder)}


def _unlisted(folder: Path) -> list[str]:
    """Weight files of a folder that has no index and no model.safetensors."""
    files = sorted(f.name for f in folder.glob("*.safetensors") if f.name != ADAPTER_WEIGHTS)
    if not files:
        pickled = next((f.name for f in folder.iterdir() if f.suffix in (".bin", ".pt")), None)
        hint = (
            f"; {pickled} is a pickle, which is never loaded: convert it to safetensors first"
            if pickled
            else ""
        )
        raise UserError(f"{folder}: expected safetensors weights, but there are none{hint}")
    if len(files) == 1:
        return files
    parsed = [match for match in map(_NUMBERED.fullmatch, files) if match]
    series = {(match[1], match[3]) for match in parsed}
    if len(series) != 1 or len(parsed) < len(files):
        raise UserError(
            f"{folder}: it has {files[0]} and {files[-1]} and no {INDEX}, so it is not clear which "
            f"are the model's; remove the others, or rename the one to {SINGLE}"
        )
    prefix, count = series.pop()
    numbers = {int(match[2]) for match in parsed}
    lacking = next((n for n in range(1, int(count) + 1) if n not in numbers), None)
    if lacking is not None:
        raise UserError(
            f"{folder}: {prefix}-{lacking:0{len(count)}d}-of-{count}.safetensors is missing, and "
            f"there is no {INDEX}; download the model again"
        )
    return files


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
