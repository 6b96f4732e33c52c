"""Which value each parameter of a recipe has at each depth; recipes as plain data, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.recipe.recipe import resolve, scalars

Document = Mapping[str, Any]
LAYER_PARTS = {
    "attention": "self_attn.q_proj.weight",
    "mlp": "mlp.up_proj.weight",
    "norm": "input_layernorm.weight",
}
OUTSIDE = {
    "embedding": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "head": "lm_head.weight",
}


@dataclass(frozen=True)
class Spot:
    """A place in a model: a layer (``None`` outside the stack), a component, a typical tensor."""

    layer: int | None
    component: str
    tensor: str


def spots(depth: int) -> list[Spot]:
    """All places of a model: three components in every layer, and what lies outside the layers."""
    inside = [
        Spot(layer, part, f"model.layers.{layer}.{end}")
        for layer in range(depth)
        for part, end in LAYER_PARTS.items()
    ]
    return inside + [Spot(None, part, name) for part, name in OUTSIDE.items()]


def depth_of(recipe: Document) -> int:
    """As many layers as a recipe shows: its slices, its blocks, or the values of a gradient."""
    if recipe.get("slices"):
        return sum(_length(part) for part in recipe["slices"])
    blocks = recipe.get("blocks") or []
    ends = [int(block["layers"][1]) for block in blocks if block.get("layers")]
    knots = [_knots(setting) for scope in _scopes(recipe) for setting in scope.values()]
    return max([*ends, *knots, 1])


def method_at(recipe: Document, spot: Spot) -> str:
    """The merge method that holds at a place."""
    block = _block(recipe, spot)
    return str((block or {}).get("merge_method") or recipe["merge_method"])


def parameters(recipe: Document) -> dict[str, bool]:
    """Names of the parameters that the recipe sets, and whether some model has its own value."""
    found: dict[str, bool] = {}
    for scope in _scopes(recipe):
        for name in scope:
            found.setdefault(name, False)
    for entry in _entries(recipe):
        for name in entry.get("parameters") or {}:
            found[name] = True
    return found


def models(recipe: Document) -> list[str]:
    """The merged models, in the recipe's order."""
    return list(dict.fromkeys(entry["model"] for entry in _entries(recipe)))


def value(recipe: Document, parameter: str, model: str | None, spot: Spot, depth: int) -> Any:
    """The value at a place, for a model or (``None``) for all; ``None`` if the recipe sets none."""
    for scope, position in _levels(recipe, model, spot, depth):
        if parameter in scope:
            found = resolve(scope[parameter], spot.tensor, position)
            if found is not None:
                return found
    return None


def _levels(
    recipe: Document, model: str | None, spot: Spot, depth: int
) -> list[tuple[Document, float]]:
    """Where a value is looked for, nearest first, and the depth at which gradients are read."""
    if recipe.get("slices"):
        return _slice_levels(recipe, model, spot)
    here = _position(spot.layer, 0, depth)
    block, within = _block(recipe, spot), 0.0
    scopes: list[tuple[Document, float]] = []
    if block is not None:
        first, end = block.get("layers") or (0, depth)
        within = _position(spot.layer, first, min(end, depth))
        scopes += [(entry, within) for entry in _own(block, model)]
        scopes.append((block.get("parameters") or {}, within))
    scopes += [(entry, here) for entry in _own(recipe, model)]
    return [*scopes, (recipe.get("parameters") or {}, here)]


def _slice_levels(recipe: Document, model: str | None, spot: Spot) -> list[tuple[Document, float]]:
    """As `_levels`; nothing where the model is no source of the slice."""
    part, step = recipe["slices"][0 if spot.component == "embedding" else -1], None
    if spot.layer is not None:
        first = 0
        for candidate in recipe["slices"]:
            if spot.layer < first + _length(candidate):
                part, step = candidate, spot.layer - first
                break
            first += _length(candidate)
    sources = [s for s in part["sources"] if s["model"] == model]
    if model is not None and not sources:
        return []
    position = _position(step, 0, _length(part))
    own = [source.get("parameters") or {} for source in sources[:1]]
    shared = [part.get("parameters") or {}, recipe.get("parameters") or {}]
    return [(scope, position) for scope in [*own, *shared]]


def _position(layer: int | None, first: int, end: int) -> float:
    """Depth in [0, 1] of a layer in [first, end), as the merge reads gradients."""
    if layer is None:
        return 0.0
    return (layer - first) / (end - first - 1) if end - first > 1 else 1.0


def _block(recipe: Document, spot: Spot) -> Document | None:
    for block in recipe.get("blocks") or []:
        layers, components = block.get("layers"), block.get("components")
        inside = spot.layer is not None and layers and layers[0] <= spot.layer < layers[1]
        if (layers is None or inside) and (components is None or spot.component in components):
            found: Document = block
            return found
    return None


def _own(scope: Document, model: str | None) -> list[Document]:
    return [
        entry.get("parameters") or {}
        for entry in scope.get("models") or []
        if entry["model"] == model
    ]


def _entries(recipe: Document) -> list[Document]:
    """Every model's entry: the recipe's, its blocks', its slices' sources."""
    found = list(recipe.get("models") or [])
    for block in recipe.get("blocks") or []:
        found += block.get("models") or []
    for part in recipe.get("slices") or []:
        found += part["sources"]
    return found


def _scopes(recipe: Document) -> list[Document]:
    """Every mapping of parameters in a recipe."""
    holders: Sequence[Document] = [
        recipe,
        *(recipe.get("blocks") or []),
        *(recipe.get("slices") or []),
        *_entries(recipe),
    ]
    return [holder.get("parameters") or {} for holder in holders]


def _knots(setting: Any) -> int:
    """How many values a gradient has; 1 for anything else."""
    if not isinstance(setting, list):
        return 1
    if setting and isinstance(setting[0], dict):
        return max(_knots(case["value"]) for case in setting)
    return len(scalars(setting))


def _length(part: Document) -> int:
    first, end = part["sources"][0]["layer_range"]
    return int(end - first)
