"""Writes layers as mergekit slices: equal neighbours together, values set by exact filters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.checkpoint.architecture import locate, within_layer
from evomerge.core.errors import UserError
from evomerge.recipe.values import resolve


@dataclass(frozen=True)
class Stack:
    """The tensors of a model, by layer."""

    outside: tuple[str, ...]
    layers: tuple[tuple[str, ...], ...]

    @classmethod
    def read(cls, names: Sequence[str]) -> Stack:
        """Sort tensors into their layers.

        Raises:
            UserError: There is no stack of layers, or more than one.
        """
        by_layer: dict[int, list[str]] = {}
        stacks = set()
        for name in names:
            layer = locate(name).layer
            if layer is not None:
                by_layer.setdefault(layer, []).append(name)
                head = name.removesuffix(within_layer(name)).removesuffix(f"{layer}.")
                stacks.add(head)
        if len(stacks) != 1 or sorted(by_layer) != list(range(len(by_layer))):
            raise UserError(
                "mergekit needs one stack of layers for slices, but the tensors' names have "
                f"{len(stacks)}: {', '.join(sorted(stacks)) or 'no layer numbers'}"
            )
        return cls(
            tuple(name for name in names if locate(name).layer is None),
            tuple(tuple(by_layer[layer]) for layer in range(len(by_layer))),
        )

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.layers)

    def slices(
        self,
        sources: Callable[[Sequence[str]], list[dict[str, Any]]],
        key: Callable[[str], Hashable],
        parameters: Callable[[Sequence[str]], dict[str, Any]] = lambda part: {},  # noqa: ARG005
    ) -> list[dict[str, Any]]:
        """Join neighbouring layers whose tensors have equal keys, where ``None`` equals any other.

        The tensors outside the stack belong to the first or to the last slice: which, depends on
        the architecture, so that both get their values.
        """
        runs: list[tuple[int, int, dict[str, Hashable]]] = []
        for i, names in enumerate(self.layers):
            keys = {within_layer(n): key(n) for n in names if key(n) is not None}
            if runs and all(runs[-1][2].get(n, k) == k for n, k in keys.items()):
                runs[-1] = (runs[-1][0], i + 1, {**runs[-1][2], **keys})
            else:
                runs.append((i, i + 1, keys))
        result = []
        for first, end, _ in runs:
            part = [name for names in self.layers[first:end] for name in names]
            if first == 0 or end == self.depth:
                part += self.outside
            shared = parameters(part)
            listed = [
                source_of(s["model"], (first, end), s.get("parameters")) for s in sources(part)
            ]
            result.append({"sources": listed, **({"parameters": shared} if shared else {})})
        return result


def source_of(
    model: str, layers: tuple[int, int], parameters: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Write a source of a slice: a model's layers, half-open, and its parameters if any."""
    setting = {"parameters": dict(parameters)} if parameters else {}
    return {"model": model, "layer_range": list(layers), **setting}


def setting_of(values: Mapping[str, Any], part: Sequence[str]) -> Any:
    """Write one value, or filters that give each tensor of a slice its own; else the commonest.

    Args:
        values: The value of each tensor that has one.
        part: Every tensor of the slice, which a filter could match by mistake.

    Raises:
        UserError: One tensor's name contains another's, so that no filter selects only one of them.
    """
    fallback = Counter(values.values()).most_common(1)[0][0]
    cases: dict[str, Any] = {}
    for name, value in values.items():
        if value == fallback:
            continue
        inside = within_layer(name)
        module = inside.split(".")[0] + "."  # a whole module, if it agrees
        agrees = inside != name and all(values.get(n, value) == value for n in part if module in n)
        cases[module if agrees else inside] = value
    if not cases:
        return fallback
    longest_first = sorted(cases, key=len, reverse=True)  # the first match counts
    setting = [{"filter": pattern, "value": cases[pattern]} for pattern in longest_first]
    setting.append({"value": fallback})
    for name, value in values.items():
        if resolve(setting, name, 0.0) != value:
            raise UserError(
                f"mergekit's filters match parts of names, so none selects {name} alone"
            )
    return setting
