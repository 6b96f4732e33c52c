"""Holds a model as merging sees it: a configuration and named tensors, read when needed."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from evomerge.checkpoint.files.folder import TOKENIZER_FILES
from evomerge.checkpoint.files.header import TensorInfo
from evomerge.checkpoint.sandbox.client import tokens_of
from evomerge.checkpoint.store import Factors, Store
from evomerge.checkpoint.vocabulary import TokenSum, read_tokenizer


class Checkpoint:
    """A model, opened for reading; nothing but headers is read at first.

    Attributes:
        folder: Where its configuration and tokenizer are.
        config: Its config.json.
        tensors: Dtype, shape and file of each tensor, as its header says.
        store: Where the tensors come from.
    """

    def __init__(
        self, folder: Path, config: dict[str, Any], tensors: dict[str, TensorInfo], store: Store
    ):
        self.folder = folder
        self.config = config
        self.tensors = tensors
        self.store = store

    def tensor(self, name: str) -> Tensor:
        """Return one tensor, in the dtype it is stored in; never to be written to."""
        return self.store.tensor(name)

    def factors(self, name: str) -> Factors | None:
        """Return what an adapter adds to this tensor; ``None`` where none does."""
        return self.store.factors(name)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over config.json and every shard, whatever their folder."""
        return self.store.fingerprint

    @cached_property
    def vocabulary(self) -> dict[str, int] | None:
        """Token to id as tokenizer.json holds it; ``None`` without such a file."""
        tokenizer = None if self.tokens is None else read_tokenizer(self.folder)
        return None if tokenizer is None else tokenizer.vocabulary

    @cached_property
    def tokens(self) -> TokenSum | None:
        """A digest of its vocabulary; ``None`` without tokenizer.json."""
        return tokens_of(self.folder)

    def tokenizer_files(self) -> list[Path]:
        """Return the tokenizer's files that this folder holds."""
        return [self.folder / f for f in TOKENIZER_FILES if (self.folder / f).is_file()]
