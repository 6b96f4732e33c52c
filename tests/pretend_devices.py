"""Two accelerators that are none: CPU memory that refuses, as GPUs do, to work with another's.

Within `several_devices` the names ``lazy:0``, ``lazy:1``, … are devices to PyTorch, the libraries
and us alike. An operation computes on the CPU, after a check that its tensors are on one device:
what forgets to bring a tensor along fails here as it would on two GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICES = ["lazy:0", "lazy:1"]  # a type that PyTorch knows and builds nothing for
CPU = torch.device("cpu")


class Placed(torch.Tensor):
    """A tensor that says it is on a device, with its numbers on the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(
        cls, inner: torch.Tensor, device: torch.device | None = None, requires_grad: bool = False
    ) -> Placed:
        if isinstance(inner, Placed):  # accelerate wraps what it moved in the class that it found
            return inner.requires_grad_(requires_grad)
        with torch.inference_mode(False):  # views of tensors from without keep their counters
            made = torch.Tensor._make_wrapper_subclass(
                cls,
                inner.size(),
                strides=inner.stride(),
                storage_offset=inner.storage_offset(),
                dtype=inner.dtype,
                device=device,
            )
        made.inner = inner
        return made

    def tolist(self) -> Any:
        return self.inner.tolist()

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, function: Any, _types: Any, args: Any = (), kwargs: Any = None):
        with _Devices():
            return function(*args, **(kwargs or {}))


class _Devices(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None):
        kwargs = kwargs or {}
        with self:
            parts = function.decompose(*args, **kwargs)
        return _run(function, args, kwargs) if parts is NotImplemented else parts


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    placed = [t for t in tensors if isinstance(t, Placed)]
    where = {t.device for t in placed}
    name = function.overloadpacket.__name__
    on_cpu = [t for t in tensors if not isinstance(t, Placed) and t.dim()]
    may_mix = name in ("_to_copy", "copy_") or (name.startswith("index") and len(where) < 2)
    if not may_mix and (len(where) > 1 or (placed and on_cpu)):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device: {where}")
    device = kwargs.get("device")
    if device is not None:
        kwargs = {**kwargs, "device": CPU}
    args, kwargs = tree_map(lambda t: t.inner if isinstance(t, Placed) else t, (args, kwargs))
    result = function(*args, **kwargs)
    if name == "copy_":
        return tensors[0]
    target = torch.device(device) if device is not None else next(iter(where), CPU)
    if target.type == "cpu":
        return result
    known = {id(t.inner): t for t in placed}  # what is written in place stays what it is

    def wrapped(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return known[id(value)] if id(value) in known else Placed(value, target)

    return tree_map(wrapped, result)


@contextmanager
def several_devices() -> Iterator[list[str]]:
    """Within, `DEVICES` can be used."""
    lifted = torch._C._only_lift_cpu_tensors()
    with pytest.MonkeyPatch.context() as patch, _Devices():
        patch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")  # a mode is of one thread
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) comes by here
        try:
            yield DEVICES
        finally:
            torch._C._set_only_lift_cpu_tensors(lifted)
