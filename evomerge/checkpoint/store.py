"""Gives a checkpoint its tensors: from safetensors files, an adapter on a model, or a merge."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from safetensors import SafetensorError
from torch import Tensor

from evomerge.checkpoint.files.header import TensorInfo
from evomerge.checkpoint.files.mapping import open_staggered
from evomerge.core.errors import UserError


class Factors(NamedTuple):
    """A low-rank delta, left @ right: float32, of shapes (rows, rank) and (rank, columns)."""

    left: Tensor
    right: Tensor


class Store(Protocol):
    """Gives a checkpoint's tensors by name."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that determines the tensors."""
        ...

    @property
    def files(self) -> list[Path]:
        """Every file that the tensors are read from, and what describes them."""
        ...

    def tensor(self, name: str) -> Tensor:
        """Return one tensor; never to be written to."""
        ...

    def factors(self, name: str, adapters: int) -> list[Factors] | None:
        """Return what the topmost adapters add to a tensor; see `Checkpoint.factors`."""
        ...

    def computes(self, name: str) -> bool:
        """Return whether a tensor is computed when it is read, into memory of its own."""
        ...


class Files:
    """Tensors in the safetensors files of a folder, memory-mapped where the format allows."""

    def __init__(self, folder: Path, tensors: Mapping[str, TensorInfo], described_by: str):
        self.folder = folder
        self.tensors = tensors
        self.described_by = described_by  # the JSON file that belongs to the weights
        self._open: dict[str, Any] = {}

    def tensor(self, name: str) -> Tensor:
        """Return one tensor, in the dtype it is stored in.

        Raises:
            UserError: Its file cannot be read.
        """
        info = self.tensors[name]
        try:
            if info.file not in self._open:
                self._open[info.file] = open_staggered(self.folder / info.file)
            tensor: Tensor = self._open[info.file].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{self.folder / info.file}: cannot read tensor {name}: {error}"
            ) from None
        return tensor

    @property
    def files(self) -> list[Path]:
        """The describing file and every shard, in the order of their names."""
        shards = sorted({info.file for info in self.tensors.values()})
        return [self.folder / file for file in [self.described_by, *shards]]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the describing file and every shard, whatever their folder."""
        digest = hashlib.sha256()
        for file in self.files:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    def factors(self, name: str, adapters: int) -> list[Factors] | None:
        """Return no factors: there is no adapter."""
        del name
        return None if adapters else []

    def computes(self, name: str) -> bool:
        """Return ``False``: tensors are memory-mapped."""
        del name
        return False


class Renamed:
    """The tensors of a store, some of them under other names."""

    def __init__(self, store: Store, names: Mapping[str, str]):
        self.store = store
        self.names = names  # those in the store, by those that are asked for

    @property
    def fingerprint(self) -> str:
        """That of the store."""
        return self.store.fingerprint

    @property
    def files(self) -> list[Path]:
        """Those of the store."""
        return self.store.files

    def tensor(self, name: str) -> Tensor:
        """Return one tensor; never to be written to."""
        return self.store.tensor(self.names.get(name, name))

    def factors(self, name: str, adapters: int) -> list[Factors] | None:
        """Return what the topmost adapters add to a tensor."""
        return self.store.factors(self.names.get(name, name), adapters)

    def computes(self, name: str) -> bool:
        """Return whether a tensor is computed when it is read."""
        return self.store.computes(self.names.get(name, name))
