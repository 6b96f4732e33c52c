"""Finds where each tensor of a checkpoint lies within a live model that transformers has made.

transformers runs some architectures in another layout than it stores: experts of a layer are one
tensor, a wrapper's language model has another prefix. Its own conversion mapping says how; it is
applied to names here, and its operations are reversed on tensors without data. Where they only move
data about, each stored tensor comes out as a view of a live one, and that view's place is the
answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode


class Place(NamedTuple):
    """A strided part of a contiguous live tensor.

    Attributes:
        live: The live tensor's name in the model's ``state_dict``.
        shape: Of the part; of the whole live tensor where `stride` is ``None``.
        stride: Of the part, in elements; ``None`` where the part is all of it.
        offset: Of the part's first element, in elements.
    """

    live: str
    shape: tuple[int, ...]
    stride: tuple[int, ...] | None = None
    offset: int = 0

    def of(self, tensor: Tensor) -> Tensor:
        """Return the part as a view of the live tensor, with that part of its gradient."""
        if self.stride is None:
            return tensor
        start = tensor.storage_offset() + self.offset
        part = tensor.detach().as_strided(self.shape, self.stride, start)
        if tensor.grad is not None:
            part.grad = tensor.grad.contiguous().as_strided(self.shape, self.stride, self.offset)
        return part


Layout = Mapping[str, Place]


def layout(model: torch.nn.Module, names: Sequence[str]) -> Layout:
    """Find the places of a checkpoint's tensors; those that have none are left out."""
    shapes = {name: tuple(t.shape) for name, t in model.state_dict(keep_vars=True).items()}
    transforms = _transforms(model)
    if transforms is None:
        return _by_prefix(shapes, names, str(getattr(model, "base_model_prefix", "")))
    return _Converted(model, shapes, *transforms).layout(names)


def _transforms(model: torch.nn.Module) -> tuple[list[Any], list[Any]] | None:
    """Return transformers' renamings and converters for a model; ``None`` if it has none to ask."""
    with suppress(ImportError):  # a version of transformers that keeps them elsewhere
        from transformers import PreTrainedModel
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        if isinstance(model, PreTrainedModel):
            mapping = get_model_conversion_mapping(model)
            renamings = [one for one in mapping if isinstance(one, WeightRenaming)]
            return renamings, [one for one in mapping if isinstance(one, WeightConverter)]
    return None


def _by_prefix(
    shapes: Mapping[str, tuple[int, ...]], names: Iterable[str], prefix: str
) -> dict[str, Place]:
    places = {}
    for name in names:
        live = next((n for n in (name, f"{prefix}.{name}") if n in shapes), None)
        if live is not None:
            places[name] = Place(live, shapes[live])
    return places


class _Converted:
    """The layout of a model by transformers' own rules, as its loader applies them."""

    def __init__(
        self,
        model: Any,
        shapes: Mapping[str, tuple[int, ...]],
        renamings: list[Any],
        converters: list[Any],
    ):
        self.model = model
        self.prefix = f"{model.base_model_prefix}."
        self.shapes = shapes
        self.renamings = renamings
        self.converters = converters
        self.by_pattern = {p: one for one in converters for p in one.source_patterns}

    def layout(self, names: Sequence[str]) -> dict[str, Place]:
        """Find the places of a checkpoint's tensors."""
        from transformers.core_model_loading import (
            apply_renamings,
            dot_natural_key,
            rename_source_key,
        )

        places: dict[str, Place] = {}
        groups: dict[str, tuple[Any, dict[str, str]]] = {}  # live tensor -> converter, its sources
        # The loader's order: renamings in pairs depend on it, and so do lists of experts.
        about = self.model.base_model_prefix, dict(self.shapes)
        for name in sorted(names, key=dot_natural_key):
            live, pattern = rename_source_key(name, self.renamings, self.converters, *about)
            if live not in self.shapes and name in self.shapes:
                live, pattern = rename_source_key(name, [], [], *about)
            if pattern is None and live in self.shapes:
                places[name] = Place(live, self.shapes[live])
            elif pattern is not None and live in self.shapes:
                _, sources = groups.setdefault(live, (self.by_pattern[pattern], {}))
                sources[apply_renamings(name, self.renamings)] = name
        for live, (converter, sources) in groups.items():
            places |= self._parts(live, converter, sources)
        return {name: places[name] for name in names if name in places}

    def _parts(self, live: str, converter: Any, sources: Mapping[str, str]) -> dict[str, Place]:
        """Reverse a conversion on a live tensor without data; its results are the sources' places.

        Args:
            live: The live tensor.
            converter: What makes it of its sources.
            sources: The checkpoint's name of each source by its renamed one.
        """
        whole = torch.empty(self.shapes[live], device="meta")
        reverse = converter.reverse_transform()
        stored, pattern = reverse.rename_source_key(live)
        if pattern is None:
            return {}
        reverse.add_tensor(stored, live, pattern, whole)
        try:
            with _Aliases():  # type: ignore[no-untyped-call]  # its base has no hints
                parts = reverse.convert(stored, model=self.model, config=self.model.config)
        except Exception:  # an operation that computes, or that needs what is not there
            return {}
        places = {}
        for renamed, part in parts.items():
            part = part[0] if isinstance(part, list) else part
            spellings = (renamed, renamed.removeprefix(self.prefix), self.prefix + renamed)
            name = next((sources[one] for one in spellings if one in sources), None)
            if name is not None and _share_memory(part, whole):
                places[name] = Place(
                    live, tuple(part.shape), tuple(part.stride()), part.storage_offset()
                )
        return places if len(places) == len(sources) == len(parts) else {}


def _share_memory(*tensors: Tensor) -> bool:
    memory: Any = StorageWeakRef  # without hints
    first, second = (memory(tensor.untyped_storage()) for tensor in tensors)
    return bool(first == second)


class _Aliases(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Makes copies views of what they copy, and refuses operations that make new data."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        if func is torch.ops.aten.clone.default:
            return args[0]
        if func in (torch.ops.aten.cat.default, torch.ops.aten.stack.default):
            raise NotImplementedError("several tensors become one")
        return func(*args, **(kwargs or {}))
