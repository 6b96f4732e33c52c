"""Makes a model with a LoRA adapter on it another checkpoint; its tensors are merged when read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from evomerge.checkpoint.adapters.lora import Adapter, Change
from evomerge.checkpoint.architecture import vocabulary_size
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.files.folder import ADAPTER_WEIGHTS as WEIGHTS
from evomerge.checkpoint.store import Factors
from evomerge.core.errors import UserError


def adapted(host: Checkpoint, adapter: Adapter) -> Checkpoint:
    """Return the host with the adapter on it: any host whose tensors the adapter fits.

    What the adapter adds to is float32, whatever the host is stored in: it is rounded once, when a
    merge is written. All other tensors are the host's own.

    Raises:
        UserError: The host lacks a tensor that the adapter changes, or it is of another shape.
    """
    changes = {}
    for name, change in adapter.changes.items():
        host_name = _host_name(name, host, adapter)
        changes[host_name] = _fitted(host_name, change, host, adapter)
    _check_tied(host, changes, adapter)
    tensors = dict(host.tensors)
    for name, change in changes.items():
        if change.left is not None:
            tensors[name] = tensors[name]._replace(dtype="F32")
        elif change.replaced_by is not None:
            dtype = adapter.tensors[change.replaced_by].dtype
            tensors[name] = tensors[name]._replace(dtype=dtype)
    return Checkpoint(host.folder, host.config, tensors, _Adapted(host, adapter, changes))


class _Adapted:
    """The tensors of a host, an adapter's changes made."""

    def __init__(self, host: Checkpoint, adapter: Adapter, changes: Mapping[str, Change]):
        self.host = host
        self.adapter = adapter
        self.changes = changes

    @property
    def fingerprint(self) -> str:
        both = f"{self.host.fingerprint} {self.adapter.fingerprint}"
        return hashlib.sha256(both.encode()).hexdigest()

    @property
    def files(self) -> list[Path]:
        return [*self.host.store.files, *self.adapter.files]

    def tensor(self, name: str) -> Tensor:
        change = self.changes.get(name)
        if change is None:
            return self.host.tensor(name)
        key = change.replaced_by
        whole = self.adapter.read(key) if key is not None else self.host.tensor(name)
        if change.left is None:
            return whole
        if whole.dtype == torch.float64:
            whole = whole.float()
        return self.adapter.product(change).add_(whole)  # in float32

    def factors(self, name: str, adapters: int) -> list[Factors] | None:
        if adapters == 0:
            return []
        below = self.host.factors(name, adapters - 1)
        change = self.changes.get(name)
        if below is None or change is None:
            return below
        if change.left is None or change.replaced_by is not None:
            return None
        return [*below, self.adapter.factors(change)]

    def computes(self, name: str) -> bool:
        change = self.changes.get(name)
        return self.host.computes(name) if change is None else change.left is not None


def _host_name(name: str, host: Checkpoint, adapter: Adapter) -> str:
    """The name that the host has for a tensor of PEFT's model, which has the live model's names."""
    if name in host.tensors:
        return name
    stored = host.stored_names(name)
    if len(stored) == 1:
        return stored[0]
    if len(stored) > 1:
        raise UserError(
            f"{adapter.folder}: it changes {name}, in which {len(stored)} tensors of {host.folder} "
            "are fused; merge it with PEFT (merge_and_unload) and name the result"
        )
    partner = host.partner(name)
    if partner is not None:
        raise _tied(adapter, name, host, partner)
    alike = [
        host_name
        for host_name in host.tensors
        if host_name.endswith(f".{name}") or name.endswith(f".{host_name}")
    ]
    if len(alike) != 1:
        raise UserError(f"{adapter.folder}: it changes {name}, which {host.folder} does not have")
    return alike[0]


def _fitted(name: str, change: Change, host: Checkpoint, adapter: Adapter) -> Change:
    """Return the change in the layout of the host's tensor; an error if it fits in neither."""
    shape = host.tensors[name].shape
    if change.replaced_by is not None:
        given = adapter.tensors[change.replaced_by].shape
        if given != shape:
            raise _misfit(adapter, name, given, host, shape)
    if change.left is None or change.right is None:
        return change
    product = (adapter.tensors[change.left].shape[0], adapter.tensors[change.right].shape[1])
    turned = product[::-1]
    if change.transposed or product != shape:  # an embedding, or a layer that stores (in, out)
        if turned != shape:
            raise _misfit(adapter, name, product, host, shape)
        return replace(change, transposed=True)
    # A square layer fits both ways, so the configuration decides.
    square = product == turned and bool(adapter.config.get("fan_in_fan_out"))
    return replace(change, transposed=square)


def _misfit(
    adapter: Adapter,
    name: str,
    given: tuple[int, ...],
    host: Checkpoint,
    shape: tuple[int, ...],
) -> UserError:
    remedy = ""
    if given[1:] == shape[1:] and vocabulary_size(host.config) == shape[0]:
        remedy = (
            ": it was trained on another vocabulary; resize the model's embeddings "
            f"(resize_token_embeddings({given[0]})), merge with PEFT, and name the result"
        )
    return UserError(
        f"{adapter.folder / WEIGHTS}: it changes {name} by {list(given)}, but in {host.folder} "
        f"that is {list(shape)}{remedy}"
    )


def _tied(adapter: Adapter, name: str, host: Checkpoint, other: str) -> UserError:
    return UserError(
        f"{adapter.folder}: it changes {name}, which in {host.folder} is tied to {other}: PEFT "
        "moves one of them while it runs and both when it merges; merge it with PEFT, untied or "
        "not, and name the result"
    )


def _check_tied(host: Checkpoint, changes: Mapping[str, Change], adapter: Adapter) -> None:
    """Refuse to change a tied embedding: the adapter does not say if its head moves along."""
    for name in changes:
        if host.tied_names(name):
            raise _tied(adapter, name, host, host.tied_names(name)[0])
