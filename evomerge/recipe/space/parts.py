"""Says of each dimension which part of the recipe it belongs to: parameter, model, layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from evomerge.recipe.space import labels
from evomerge.recipe.space.dimension import Dimension
from evomerge.recipe.space.groups import Group
from evomerge.recipe.space.labels import DocumentPath


def placed(
    document: dict[str, Any],
    path: DocumentPath,
    dimensions: Sequence[Dimension],
    is_gradient: bool,
    groups: Sequence[Group],
) -> tuple[Dimension, ...]:
    """Return a hole's dimensions, each of which says where in the recipe it belongs.

    Args:
        document: The recipe with holes.
        path: Where the hole stands.
        dimensions: The hole's.
        is_gradient: Whether they are the knots of a gradient over depth.
        groups: With `per`, the tensors of each.
    """
    parameter, model, block, layers = str(path[-1]), None, None, None
    value: Any = document
    for i, part in enumerate(path):
        value = value[part]
        if part == "parameters":
            parameter = str(path[i + 1])
        if not isinstance(part, int) or not isinstance(value, dict):
            continue
        if "model" in value:
            model = labels.key(value, "models", part)
        elif path[i - 1] == "blocks":
            block = labels.key(value, "blocks", part)
            layers = value.get("layers")
    parts = partial(replace, parameter=parameter, model=model, block=block)
    group = labels.group(document, path)
    if groups:
        named = zip(dimensions, groups, strict=True)
        label = labels.label(document, path)
        return tuple(parts(replace(d, **_depth(g, label, group))) for d, g in named)
    # one value of a list, which is a gradient that has other holes or numbers beside this one
    listed = path[-1] if "parameters" in path else None
    result = []
    for i, dimension in enumerate(dimensions):
        knot, gradient = (i, path) if is_gradient else (listed, path[:-1])
        is_knot = isinstance(knot, int)
        result.append(
            replace(
                parts(dimension),
                layers=labels.span(layers),
                gradient=labels.label(document, gradient) if is_knot else None,
                knot=knot if isinstance(knot, int) else None,
                group=group,
            )
        )
    return tuple(result)


def _depth(of: Group, label: str, group: str) -> dict[str, Any]:
    """Return the parts of a dimension with `per`: alike ones in all layers are a gradient."""
    parts: dict[str, Any] = {"group": f"{group}[{of.kind}]"}
    if of.layer is None:
        return parts
    return {
        **parts,
        "layers": (of.layer, of.layer + 1),
        "gradient": f"{label}[{of.kind}]",
        "knot": of.layer,
    }
