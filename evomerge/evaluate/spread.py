"""Spreads a model over several devices: layers in order, about as many bytes on each.

A layer runs where its weights are; hooks of accelerate (this is its only door) bring inputs there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import accelerate
import torch


def device_map(model: torch.nn.Module, devices: Sequence[str]) -> dict[str, str]:
    """Assign the parts of a model to devices: layers are not cut, and keep their order.

    Args:
        model: The model; it may be on the meta device.
        devices: Names such as ``cuda:0``; the first also takes what holds no weights.

    Returns:
        Device by the part's name. A part whose weights are all tied to earlier ones goes with them.
    """
    device_of: dict[int, str] = {}  # parameter -> device
    devices_by_part = {}
    total = sum(_bytes(p) for p in model.parameters())  # a tied one counts once
    before = 0
    for name, parameters in parts_of(
        model, "", set(getattr(model, "_no_split_modules", None) or ())
    ):
        new = [p for p in parameters if id(p) not in device_of]
        size = sum(map(_bytes, new))
        if new:
            middle = (before + size / 2) / total
            device = devices[min(int(middle * len(devices)), len(devices) - 1)]
        else:
            device = device_of[id(parameters[0])] if parameters else devices[0]
        device_of |= dict.fromkeys(map(id, new), device)
        devices_by_part[name] = device
        before += size
    return devices_by_part


def dispatched(model: Any, devices_by_part: Mapping[str, str]) -> Any:
    """Move a model's parts to their devices; hooks bring inputs there when the parts run."""
    skipped = getattr(model, "_skip_keys_device_placement", None)  # caches, which stay in place
    return accelerate.dispatch_model(
        model, dict(devices_by_part), skip_keys=None if skipped is None else sorted(skipped)
    )


def parts_of(
    module: torch.nn.Module, path: str, whole: set[str]
) -> Iterator[tuple[str, list[torch.nn.Parameter]]]:
    """List what goes to one device as a whole: layers, modules without children, loose weights."""
    for name, parameter in module.named_parameters(recurse=False):
        yield f"{path}{name}", [parameter]
    is_list = isinstance(module, torch.nn.ModuleList)
    for name, child in module.named_children():
        if is_list or type(child).__name__ in whole or not any(child.children()):
            yield f"{path}{name}", list(child.parameters())
        else:
            yield from parts_of(child, f"{path}{name}.", whole)


def _bytes(parameter: torch.Tensor) -> int:
    return parameter.numel() * parameter.element_size()


def without_weights() -> AbstractContextManager[Any]:
    """Within, models are made without memory for their parameters, which are on the meta device."""
    made: AbstractContextManager[Any] = accelerate.init_empty_weights(include_buffers=False)
    return made
