"""Holds a model as merging sees it: a configuration and named tensors, read when needed."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from evomerge.checkpoint.files.companions import TOKENIZER, companions
from evomerge.checkpoint.files.header import TensorInfo
from evomerge.checkpoint.loaded.skeleton import skeleton_of
from evomerge.checkpoint.loaded.tying import partner_of, tied_names
from evomerge.checkpoint.sandbox.client import tokens_of
from evomerge.checkpoint.store import Factors, Store
from evomerge.checkpoint.vocabulary import TokenSum
from evomerge.checkpoint.vocabulary_files import read_vocabulary


class Checkpoint:
    """A model, opened for reading; nothing but headers is read at first.

    Attributes:
        folder: Where its configuration and tokenizer are.
        config: Its config.json.
        tensors: Dtype, shape and file of each tensor, as its header says; only those that
            transformers ends up with (`loaded.tying`).
        store: Where the tensors come from.
    """

    def __init__(
        self, folder: Path, config: dict[str, Any], tensors: dict[str, TensorInfo], store: Store
    ):
        self.folder = folder
        self.config = config
        self.tensors = tensors
        self.store = store
        self._partners: dict[str, str | None] = {}

    def tensor(self, name: str) -> Tensor:
        """Return one tensor, in the dtype it is stored in; never to be written to."""
        return self.store.tensor(name)

    def factors(self, name: str, adapters: int = 1) -> list[Factors] | None:
        """Return what the topmost adapters add to a tensor, each one's as a product.

        Empty where they leave the tensor as it is; ``None`` where they change it otherwise, or
        there are not as many.
        """
        return self.store.factors(name, adapters)

    def computes(self, name: str) -> bool:
        """Return whether a tensor is computed when it is read, into memory of its own."""
        return self.store.computes(name)

    def partner(self, name: str) -> str | None:
        """The tensor that stands for one that is not stored, as transformers ties the two."""
        if name not in self._partners:
            self._partners[name] = partner_of(name, self.config, self.live_names)
        return self._partners[name]

    def stored_name(self, name: str) -> str | None:
        """The name under which a tensor is stored: its own or its tied partner's."""
        return name if name in self.tensors else self.partner(name)

    @cached_property
    def live_names(self) -> dict[str, str]:
        """The live model's name of each tensor; its own where transformers does not know it.

        Several tensors of one live name are fused there, as the experts of a layer are.
        """
        skeleton = skeleton_of(self.config)
        if skeleton is None:
            return {name: name for name in self.tensors}
        return skeleton.live_names(self.tensors)

    def stored_names(self, live_name: str) -> list[str]:
        """The tensors that are this one in the live model, whose names PEFT uses.

        A name of an older transformers is understood too.
        """
        skeleton = skeleton_of(self.config)
        wanted = {live_name}
        if skeleton is not None:
            wanted.add(skeleton.live_names([live_name])[live_name])
        return [name for name, live in self.live_names.items() if live in wanted]

    @cached_property
    def fused(self) -> set[str]:
        """Live names that several stored tensors share, as the experts of a layer do."""
        counted = Counter(self.live_names.values())
        return {name for name, count in counted.items() if count > 1}

    def module_classes(self, name: str) -> list[str] | None:
        """The class of the live module that alone holds a tensor, as ``Linear``, and its bases.

        ``None``: transformers does not know the model. Empty: no module holds it as it is.
        """
        skeleton = skeleton_of(self.config)
        if skeleton is None:
            return None
        live = self.live_names[name]
        if live in self.fused or live not in skeleton.shapes:
            return []
        return skeleton.module_classes(live)

    def tied_names(self, name: str) -> list[str]:
        """Live names of the tensors that are this one too, as transformers ties them."""
        return tied_names(name, self.config, self.live_names)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over config.json and every shard, whatever their folder."""
        return self.store.fingerprint

    @cached_property
    def vocabulary(self) -> dict[str, int] | None:
        """Token to id, whichever files its tokenizer consists of; ``None`` without any."""
        return None if self.tokens is None else read_vocabulary(self.folder)

    @cached_property
    def tokens(self) -> TokenSum | None:
        """A digest of its vocabulary; ``None`` without a tokenizer."""
        return tokens_of(self.folder)

    def tokenizer_files(self) -> list[Path]:
        """The tokenizer's files that this folder holds."""
        return companions(self.folder, TOKENIZER)
