"""Groups a model's tensors: each by itself, or by layer and component, for one value a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from evomerge.checkpoint.architecture import locate, stack_of, within_layer
from evomerge.recipe.data import Block

PER = ("tensor", "component")
Tensors = Mapping[str, bool]  # a model's tensors by name, and whether they are floating point


@dataclass(frozen=True)
class Group:
    """Holds tensors that share one value.

    Attributes:
        label: What stands in the dimension's name.
        tensors: Their names.
        layer: The layer that all of them are in; ``None`` outside the layers.
        kind: The label without the layer: equal for the groups that are alike in every layer.
    """

    label: str
    tensors: tuple[str, ...]
    layer: int | None
    kind: str


def grouped(per: str, tensors: Tensors, block: Block | None = None) -> list[Group]:
    """List the groups of a model's floating-point tensors, ordered by the first tensor of each.

    Args:
        per: ``tensor``, or ``component``: attention, MLP, norm … of each layer.
        tensors: All of them.
        block: Leave out what it does not cover; ``None`` keeps all.

    >>> ends = ("mlp.up.weight", "mlp.down.weight")
    >>> names = {f"model.layers.{i}.{end}": True for i in (0, 1) for end in ends}
    >>> [group.label for group in grouped("component", names)]
    ['0,mlp', '1,mlp']
    >>> [(group.layer, group.kind) for group in grouped("tensor", names)][::3]
    [(0, 'mlp.up.weight'), (1, 'mlp.down.weight')]
    """
    many = len({stack_of(name) for name in tensors} - {""}) > 1
    members: dict[tuple[str, int | None, str], list[str]] = {}
    for name, is_float in tensors.items():
        at = locate(name)
        if is_float and (block is None or block.covers(at.layer, at.component)):
            kind = within_layer(name) if per == "tensor" else at.component
            stack = stack_of(name) if many else ""
            members.setdefault((stack, at.layer, kind), []).append(name)
    return [
        Group(
            label=names[0] if per == "tensor" else _label(stack, layer, kind),
            tensors=tuple(names),
            layer=layer,
            kind=stack + kind,
        )
        for (stack, layer, kind), names in members.items()
    ]


def filters(groups: Sequence[Group], values: Sequence[Any]) -> list[dict[str, Any]]:
    """Write the values as a list of {filter, value}, a filter for each tensor's whole name.

    A filter matches every name that it is part of, and the first match counts: a name that is part
    of another one stands behind it.
    """
    value_of = {n: v for group, v in zip(groups, values, strict=True) for n in group.tensors}
    return [{"filter": name, "value": value_of[name]} for name in _longer_first(tuple(value_of))]


@lru_cache(maxsize=64)
def _longer_first(names: tuple[str, ...]) -> list[str]:
    """Order names as they are, but every name behind those that it is part of."""
    return sorted(names, key=lambda name: sum(name in other for other in names))


def _label(stack: str, layer: int | None, kind: str) -> str:
    return kind if layer is None else f"{stack}{layer},{kind}"
