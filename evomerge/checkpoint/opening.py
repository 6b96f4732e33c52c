"""Opens a model by its name: a folder or hub id, and the adapters on it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evomerge.checkpoint import names as model_name
from evomerge.checkpoint.adapters.applied import adapted
from evomerge.checkpoint.adapters.lora import Adapter
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.files.folder import ADAPTER_CONFIG, CONFIG, cached, read_config, resolve
from evomerge.checkpoint.files.header import TensorInfo, read_header
from evomerge.checkpoint.files.index import shards_of
from evomerge.checkpoint.loaded.quantized import check_float, without_quantization
from evomerge.checkpoint.loaded.tying import live_prefixes, loaded_tensors
from evomerge.checkpoint.sandbox.client import inspect, inspected
from evomerge.checkpoint.store import Files, Renamed
from evomerge.core.errors import UserError


def open_model(model: str | Path) -> Checkpoint:
    """Open a folder, a hub id (``org/name[@revision]``), or either with adapters (``base+folder``).

    Nothing but headers is read at first; what is on the hub is downloaded once.

    Raises:
        UserError: It is no folder with config.json and safetensors, or a file in it is damaged.
    """
    model = str(model)
    host, adapter = model_name.split(model)
    if adapter is not None:
        return adapted(open_model(host), Adapter.open(adapter))
    folder = resolve(host)
    if not (folder / CONFIG).is_file() and (folder / ADAPTER_CONFIG).is_file():
        raise UserError(
            f"{model}: this is an adapter, not a model; write {{model: BASE, adapter: {model}}}"
        )
    if (folder / ADAPTER_CONFIG).is_file():
        raise UserError(
            f"{folder}: it holds a model and an adapter ({ADAPTER_CONFIG}), and transformers loads "
            "both as one: remove the adapter's files if it is merged already, or move them to a "
            f"folder of their own and write {{model: {model}, adapter: FOLDER}}"
        )
    return _open_folder(folder)


def config_of(model: str) -> dict[str, Any]:
    """Return the config.json of a model by its name, adapters or none.

    Raises:
        UserError: There is no such model, or its folder is damaged.
    """
    folder = resolve(model_name.host_of(model))
    inspect([folder])
    return read_config(folder)


def inspect_models(models: Iterable[str]) -> dict[str, Any]:
    """Have the folders of models inspected together, adapters' too; nothing is downloaded.

    Returns:
        The findings as plain data, for `sandbox.client.remember` in another process.

    Raises:
        UserError: A file in one is damaged, or takes too much to read.
    """
    parts = dict.fromkeys(part for model in models for part in model_name.parts_of(model))
    folders = [resolve(part) for part in parts if os.path.isdir(os.path.expanduser(part))]
    inspect(folders)
    copies = [copy for copy in map(cached, parts) if copy is not None]
    with contextlib.suppress(UserError):  # an incomplete copy is reported when it is opened
        inspect(copies)
    return inspected([*folders, *copies])


def open_stored(model: str | Path) -> tuple[Path, dict[str, Any], Files]:
    """The folder, the config.json and every stored tensor of a folder or hub id, as it is.

    Raises:
        UserError: It is no folder with config.json and safetensors, or a file in it is damaged.
    """
    folder = resolve(str(model))
    inspect([folder])
    config = read_config(folder)
    stored: dict[str, TensorInfo] = {}
    named = config.get("transformers_weights")
    for shard, promised in shards_of(folder, None if named is None else str(named)).items():
        header = read_header(folder / shard)
        lacking = next((name for name in promised if name not in header), None)
        if lacking is not None:
            raise UserError(f"{folder}: {lacking} is not in {shard}, where the index expects it")
        twice = next((name for name in header if name in stored), None)
        if twice is not None:
            raise UserError(
                f"{folder}: {twice} is in {stored[twice].file} and in {shard}; keep the one that "
                "belongs to the model"
            )
        stored.update(header)
    return folder, config, Files(folder, stored, CONFIG)


def _open_folder(folder: Path) -> Checkpoint:
    """A folder's model as transformers loads it."""
    folder, config, files = open_stored(folder)
    check_float(folder, config, files.tensors)
    config = without_quantization(config)
    try:
        tensors = loaded_tensors(config, files.tensors, files.tensor)
        live = live_prefixes(config, tensors)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    if not live:
        return Checkpoint(folder, config, tensors, files)
    store = Renamed(files, {live_name: name for name, live_name in live.items()})
    renamed = {live.get(name, name): info for name, info in tensors.items()}
    return Checkpoint(folder, config, renamed, store)
