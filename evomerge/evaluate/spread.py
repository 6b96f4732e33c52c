"""One model over several devices: its layers in order, about as many bytes on each.

A layer runs where its weights are; what it takes in is brought there first. The only door to
accelerate, whose hooks do that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import accelerate
import torch


def device_map(model: torch.nn.Module, devices: Sequence[str]) -> dict[str, str]:
    """Which device each part of a model goes to: layers are not cut, and keep their order.

    Args:
        model: The model; it may be on the meta device.
        devices: Names such as ``cuda:0``; the first also takes what holds no weights.

    Returns:
        Device by the part's name. A part whose weights are all tied to earlier ones goes with them.
    """
    placed: dict[int, str] = {}  # parameter -> device
    found = {}
    total = sum(_bytes(p) for p in model.parameters())  # a tied one counts once
    before = 0
    for name, parameters in _parts(model, "", set(getattr(model, "_no_split_modules", None) or ())):
        new = [p for p in parameters if id(p) not in placed]
        size = sum(map(_bytes, new))
        if new:
            middle = (before + size / 2) / total
            device = devices[min(int(middle * len(devices)), len(devices) - 1)]
        else:
            device = placed[id(parameters[0])] if parameters else devices[0]
        placed |= dict.fromkeys(map(id, new), device)
        found[name] = device
        before += size
    return found


def dispatch(model: Any, places: Mapping[str, str]) -> Any:
    """Move a model's parts to their devices, and bring what they take in there when they run."""
    skipped = getattr(model, "_skip_keys_device_placement", None)  # caches, which stay in place
    return accelerate.dispatch_model(
        model, dict(places), skip_keys=None if skipped is None else sorted(skipped)
    )


def _parts(
    module: torch.nn.Module, path: str, whole: set[str]
) -> Iterator[tuple[str, list[torch.nn.Parameter]]]:
    """What is placed as one: layers, modules without children, and weights beside children."""
    for name, parameter in module.named_parameters(recurse=False):
        yield f"{path}{name}", [parameter]
    is_list = isinstance(module, torch.nn.ModuleList)
    for name, child in module.named_children():
        if is_list or type(child).__name__ in whole or not any(child.children()):
            yield f"{path}{name}", list(child.parameters())
        else:
            yield from _parts(child, f"{path}{name}.", whole)


def _bytes(parameter: torch.Tensor) -> int:
    return parameter.numel() * parameter.element_size()
