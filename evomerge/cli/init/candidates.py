"""Finds the models that a study could merge, and reads what their files say without weights."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from evomerge.checkpoint.architecture import layer_count, locate
from evomerge.checkpoint.dtypes import ELEMENT_BYTES
from evomerge.checkpoint.files.document import read_json
from evomerge.checkpoint.files.folder import ADAPTER_CONFIG, CONFIG, cached
from evomerge.checkpoint.files.header import TensorInfo
from evomerge.checkpoint.files.model_card import front_matter
from evomerge.checkpoint.names import HUB_ID
from evomerge.checkpoint.opening import open_stored
from evomerge.checkpoint.store import Files
from evomerge.core.errors import UserError
from evomerge.study.journal.journal import JOURNAL

_DEEPEST = 3  # folders in folders


@dataclass(frozen=True)
class Candidate:
    """A model or adapter that a study could merge.

    Attributes:
        name: As given or found: a folder or a hub id.
        folder: Where its files are; ``None`` for a hub id that is not on this machine yet.
        config: Its config.json, or adapter_config.json; empty where it is not on this machine.
        is_adapter: Whether it is a LoRA adapter.
        files: Its tensors; ``None`` for adapters and what is not on this machine.
        says_base: What its card or adapter_config.json says it was made from.
    """

    name: str
    folder: Path | None
    config: dict[str, Any]
    is_adapter: bool = False
    files: Files | None = None
    says_base: tuple[str, ...] = ()
    words: str = field(default="", compare=False)  # its name and its card's, for a guess at tasks

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """Its tensors by name, as their headers describe them."""
        return {} if self.files is None else dict(self.files.tensors)

    @property
    def parameters(self) -> int:
        """Number of its weights."""
        return sum(info.numel for info in self.tensors.values())

    @property
    def bytes(self) -> int:
        """Bytes of its weights as they are stored."""
        return sum(info.numel * ELEMENT_BYTES[info.dtype] for info in self.tensors.values())

    @cached_property
    def kind(self) -> tuple[str, frozenset[tuple[str, tuple[int, ...]]]]:
        """Its architecture and the shapes of its tensors, but for those with a row per token."""
        shapes = (
            (name, info.shape)
            for name, info in self.tensors.items()
            if locate(name).component not in ("embedding", "head")
        )
        return str(self.config.get("model_type", "?")), frozenset(shapes)

    @property
    def architecture(self) -> str:
        """Its architecture in words, such as ``llama with 16 layers of width 2048``."""
        layers, width = layer_count(self.config), self.config.get("hidden_size")
        text = str(self.config.get("model_type", "an unknown kind"))
        text += f" with {layers} layers" if layers is not None else ""
        return text + (f" of width {width}" if width is not None and layers is not None else "")

    def tensor(self, name: str) -> Tensor:
        """One of its tensors, as stored; never to be written to."""
        assert self.files is not None
        return self.files.tensor(name)


def find(places: Iterable[str]) -> tuple[list[Candidate], dict[str, str]]:
    """Return the models and adapters at some places, and by name why others are left out.

    Args:
        places: Model folders, folders of such folders, and hub ids (``org/name``).

    Raises:
        UserError: A place is neither, or no model is at any of them.
    """
    candidates: dict[str, Candidate] = {}
    refused: dict[str, str] = {}
    for place in places:
        path = Path(os.path.expanduser(place))
        if path.is_dir():
            folders = list(_model_folders(path, 0))
            if not folders:
                raise UserError(
                    f"{place}: expected a model folder, or a folder of such folders, but neither "
                    f"it nor a folder in it has a {CONFIG}"
                )
            named: list[tuple[str, Path | None]] = [(str(folder), folder) for folder in folders]
        elif HUB_ID.fullmatch(place) and not path.exists():
            named = [(place, cached(place))]
        else:
            raise UserError(f"{place}: no such folder, and not a hub id of the form org/name")
        for name, folder in named:
            try:
                candidates[name] = _read(name, folder)
            except UserError as error:
                refused[name] = str(error)
    if not candidates:
        name, why = next(iter(refused.items()))
        raise UserError(f"{name}: no model could be read: {why}")
    return list(candidates.values()), refused


def _model_folders(folder: Path, depth: int) -> Iterator[Path]:
    """Model folders at or below a folder; runs and their exports stay out."""
    if (folder / CONFIG).is_file() or (folder / ADAPTER_CONFIG).is_file():
        yield folder
    elif depth < _DEEPEST and not (folder / JOURNAL).exists():
        inner = [entry for entry in folder.iterdir() if entry.is_dir()]
        for entry in sorted(inner):
            if not entry.name.startswith("."):
                yield from _model_folders(entry, depth + 1)


def _read(name: str, folder: Path | None) -> Candidate:
    if folder is None:
        return Candidate(name, None, {}, words=name)
    about = front_matter(folder)
    says = about.get("base_model") or []
    says = tuple(str(one) for one in (says if isinstance(says, list) else [says]))
    words = " ".join([Path(name).name, *map(str, about.get("tags") or [])])
    languages = about.get("language") or []
    words += " " + " ".join(map(str, languages if isinstance(languages, list) else [languages]))
    if not (folder / CONFIG).is_file():
        config = read_json(folder / ADAPTER_CONFIG)
        host = config.get("base_model_name_or_path") if isinstance(config, dict) else None
        hosts = (str(host),) if host else ()
        return Candidate(name, folder, dict(config), True, None, hosts or says, words)
    _, config, files = open_stored(folder)
    return Candidate(name, folder, config, False, files, says, words)
