"""Gives a live model's tensors under the names of its checkpoints, as views of its memory."""

from __future__ import annotations

import re
from collections.abc import Iterable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from evomerge.checkpoint.loaded.layout import Layout, layout

_layouts: WeakKeyDictionary[torch.nn.Module, dict[int, Layout]] = WeakKeyDictionary()


def views(model: torch.nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Return the tensors of `parts` without their gradients."""
    return {name: part.detach() for name, part in parts(model, names).items()}


def parts(model: torch.nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Return a live model's tensors under the names that a checkpoint has; they share its memory.

    Args:
        model: The model; its weights may be on several devices.
        names: The checkpoint's tensors. Those that the model has no place for are left out.
    """
    state = model.state_dict(keep_vars=True)
    return {name: place.of(state[place.live]) for name, place in places_of(model, names).items()}


def places_of(model: torch.nn.Module, names: Iterable[str]) -> Layout:
    """Return where the tensors of `parts` lie in a live model."""
    listed = list(names)
    known = _layouts.setdefault(model, {})
    key = hash(tuple(listed))
    if key not in known:
        known[key] = layout(model, listed)
    return known[key]


def is_left_out(model: torch.nn.Module, name: str) -> bool:
    """Return whether transformers ignores a checkpoint's tensor of this name, as such models do."""
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    return any(re.search(pattern, name) for pattern in patterns)
