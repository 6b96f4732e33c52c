"""A model on disk: named tensors, read lazily from safetensors shards."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from evomerge.checkpoint.folder import TOKENIZER_FILES, read_config, resolve
from evomerge.checkpoint.header import TensorInfo, read_header
from evomerge.checkpoint.shards import shards_of
from evomerge.checkpoint.vocabulary import read_vocabulary
from evomerge.errors import UserError


class Checkpoint:
    """A Hugging Face model folder, opened for reading; nothing but headers is read at first."""

    def __init__(self, folder: Path, config: dict[str, Any], tensors: dict[str, TensorInfo]):
        self.folder = folder
        self.config = config
        self.tensors = tensors
        self._open: dict[str, Any] = {}

    @classmethod
    def open(cls, model: str | Path) -> Checkpoint:
        """Open a folder, or a hub id (``org/name[@revision]``) that is downloaded once.

        Raises:
            UserError: It is no folder with config.json and safetensors, or a file in it is damaged.
        """
        folder = resolve(model)
        config = read_config(folder)
        tensors: dict[str, TensorInfo] = {}
        for shard, promised in shards_of(folder).items():
            held = read_header(folder / shard)
            lacking = next((name for name in promised if name not in held), None)
            if lacking is not None:
                raise UserError(f"{folder}: {lacking} is not in {shard}, where the index places it")
            tensors.update(held)
        return cls(folder, config, tensors)

    def tensor(self, name: str) -> Tensor:
        """One tensor, in the dtype it is stored in; memory-mapped where the format allows."""
        info = self.tensors[name]
        try:
            if info.file not in self._open:
                self._open[info.file] = safe_open(self.folder / info.file, framework="pt")
            tensor: Tensor = self._open[info.file].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{self.folder / info.file}: cannot read tensor {name}: {error}"
            ) from None
        return tensor

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over config.json and every shard: what the weights are, whatever their folder."""
        digest = hashlib.sha256()
        for file in ["config.json", *sorted({info.file for info in self.tensors.values()})]:
            with (self.folder / file).open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    @cached_property
    def vocabulary(self) -> dict[str, int] | None:
        """Token to id as tokenizer.json holds it; ``None`` without such a file."""
        return read_vocabulary(self.folder)

    def tokenizer_files(self) -> list[Path]:
        """The tokenizer's files that this folder holds."""
        return [self.folder / f for f in TOKENIZER_FILES if (self.folder / f).is_file()]
