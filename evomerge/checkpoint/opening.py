"""Opens a model by its name: a folder or hub id, and the adapters on it."""

from __future__ import annotations

from pathlib import Path

from evomerge import model_name
from evomerge.checkpoint.adapted import adapted
from evomerge.checkpoint.adapter import CONFIG, Adapter
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.folder import read_config, resolve
from evomerge.checkpoint.header import TensorInfo, read_header
from evomerge.checkpoint.shards import shards_of
from evomerge.checkpoint.store import Files
from evomerge.errors import UserError


def open_model(model: str) -> Checkpoint:
    """Open a folder, a hub id, or either with adapters (``base+adapter``).

    Raises:
        UserError: It is no folder with config.json and safetensors, or a file in it is damaged.
    """
    host, adapter = model_name.split(model)
    if adapter is not None:
        return adapted(open_model(host), Adapter.open(adapter))
    folder = resolve(host)
    if not (folder / "config.json").is_file() and (folder / CONFIG).is_file():
        raise UserError(
            f"{model}: it is an adapter, not a model; write {{model: BASE, adapter: {model}}}"
        )
    return _open_folder(folder)


def _open_folder(folder: Path) -> Checkpoint:
    config = read_config(folder)
    tensors: dict[str, TensorInfo] = {}
    for shard, promised in shards_of(folder).items():
        held = read_header(folder / shard)
        lacking = next((name for name in promised if name not in held), None)
        if lacking is not None:
            raise UserError(f"{folder}: {lacking} is not in {shard}, where the index places it")
        tensors.update(held)
    return Checkpoint(folder, config, tensors, Files(folder, tensors, "config.json"))
