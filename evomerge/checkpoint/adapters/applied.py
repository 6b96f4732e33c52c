"""Makes a model with a LoRA adapter on it another checkpoint; its tensors are merged when read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from evomerge.checkpoint.adapters.change import Change, changed, factors
from evomerge.checkpoint.adapters.lora import Adapter
from evomerge.checkpoint.adapters.parameters import Parameter, stored_experts, targeted_parameters
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
    targets = adapter.config.get("target_parameters") or ()
    parameters = targeted_parameters(adapter.pairs, targets, host) if targets else {}
    changes: dict[str, Change] = {}
    for name, change in adapter.changes(parameters).items():
        if change.experts is not None:
            changes |= _of_experts(name, change, host, adapter)
            continue
        host_name = _host_name(name, host, adapter)
        changes[host_name] = _fitted(host_name, change, host, adapter)
    _check_tied(host, changes, adapter)
    tensors = dict(host.tensors)
    for name, change in changes.items():
        if change.computes:
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
        return changed(change, lambda: self.host.tensor(name), self.adapter.read)

    def factors(self, name: str, adapters: int) -> list[Factors] | None:
        if adapters == 0:
            return []
        below = self.host.factors(name, adapters - 1)
        change = self.changes.get(name)
        if below is None or change is None:
            return below
        return [*below, factors(change, self.adapter.read)] if change.is_product else None

    def computes(self, name: str) -> bool:
        change = self.changes.get(name)
        return self.host.computes(name) if change is None else change.computes


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


def _of_experts(name: str, change: Change, host: Checkpoint, adapter: Adapter) -> dict[str, Change]:
    """Return the change of each stored tensor that is a part of fused experts."""
    assert change.experts is not None
    count = change.experts.size
    parts = stored_experts(Parameter(name, count, change.transposed), host)
    if not parts:
        raise UserError(
            f"{adapter.folder}: it changes {name}, of which {host.folder} stores parts that are no "
            "rows of one expert; merge it with PEFT (merge_and_unload), and name the result"
        )
    changes = {}
    for stored, (experts, transposed) in parts.items():
        part = replace(change, experts=experts, transposed=transposed)
        second, first = (adapter.tensors[str(key)].shape for key in (change.left, change.right))
        rows = (0, second[0]) if experts.rows is None else experts.rows
        matrix = (rows[1] - rows[0], first[1])
        turned = matrix[::-1] if transposed else matrix
        given: tuple[int, ...] = turned if experts.expert is not None else (count, *turned)
        if given != host.tensors[stored].shape or rows[1] > second[0]:
            raise _misfit(adapter, stored, given, host, host.tensors[stored].shape)
        changes[stored] = part
    return changes


def _fitted(name: str, change: Change, host: Checkpoint, adapter: Adapter) -> Change:
    """Return the change in the layout of the host's tensor; an error if it fits in neither."""
    shape = host.tensors[name].shape
    if change.replaced_by is not None:
        given = adapter.tensors[change.replaced_by].shape
        if given != shape:
            raise _misfit(adapter, name, given, host, shape)
    if change.rows is not None:
        given = (shape[0], *adapter.tensors[change.rows].shape[1:])
        if given != shape or max(change.row_ids, default=0) >= shape[0]:
            raise _misfit(adapter, name, given, host, shape)
    if change.added is not None and adapter.tensors[change.added].shape != shape:
        raise _misfit(adapter, name, adapter.tensors[change.added].shape, host, shape)
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
    """Refuse to change a tied embedding: the adapter does not say if its head moves along.

    PEFT moves both where it trains single tokens.
    """
    for name, change in changes.items():
        if change.rows is None and host.tied_names(name):
            raise _tied(adapter, name, host, host.tied_names(name)[0])
