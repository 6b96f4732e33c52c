"""Labels say in words where a hole stands: models and layers by name rather than by index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

DocumentPath = tuple[str | int, ...]  # the keys and indices that lead to a value


def label(document: dict[str, Any], path: DocumentPath, knots: bool = True) -> str:
    """Return a path in words: ``blocks[0:3,attention].models[expert-a].weight``."""
    words: list[str] = []
    value: Any = document
    for i, part in enumerate(path):
        value = value[part]
        if isinstance(part, str):
            words += [] if part in ("parameters", "value") else [part]
        elif words:
            named = key(value, words[-1], part)
            if knots or named != str(part) or "parameters" not in path[:i]:
                words[-1] += f"[{named}]"
    return ".".join(words)


def group(document: dict[str, Any], path: DocumentPath) -> str:
    """Return a path in words without layers and knots: ``[attention].models[expert-a].weight``."""
    if path[0] != "blocks" or not isinstance(path[1], int):
        return label(document, path, knots=False)
    block = document["blocks"][path[1]]
    named = key({**block, "layers": None}, "blocks", path[1])
    rest = label(block, path[2:], knots=False)
    return rest if named == str(path[1]) and block.get("layers") else f"[{named}].{rest}"


def key(value: Any, word: str, index: int) -> str:
    """Return what replaces an index in a name: a model, layers and components, or a filter."""
    if not isinstance(value, dict):
        return str(index)
    if "model" in value:
        return Path(str(value["model"])).name
    if word == "blocks":
        layers, components = value.get("layers"), value.get("components")
        first = ":".join(map(str, layers)) if isinstance(layers, list) else ""
        listed = components if isinstance(components, list) else [components or ""]
        named = "+".join(map(str, listed))
        return ",".join(filter(None, [first, named])) or str(index)
    return str(value.get("filter") or index)


def span(layers: Any) -> tuple[int, int] | None:
    """Return a block's layers; ``None`` where they are not written as they should be."""
    is_fine = isinstance(layers, list) and len(layers) == 2
    return tuple(layers) if is_fine and all(type(end) is int for end in layers) else None
