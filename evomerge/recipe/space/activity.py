"""A dimension is active only while the choices of other dimensions make use of its parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from evomerge import methods
from evomerge.recipe.space.dimension import Clause, Dimension
from evomerge.recipe.space.holes import DocumentPath, Hole, model_of, takes_part


def conditioned(document: dict[str, Any], holes: Sequence[Hole]) -> tuple[Hole, ...]:
    """Return the holes, each of whose dimensions knows what it `needs`.

    A parameter of a block needs a method that declares it; one of the whole recipe needs some
    block, or the recipe itself, to have such a method; a parameter of a model needs the model.
    """
    chosen = {hole.path: hole.dimensions[0] for hole in holes if hole.path[-1] == "merge_method"}
    with_needs = []
    for hole in holes:
        if "path" in hole.path:  # whose slots know what they need
            with_needs.append(hole)
            continue
        clauses = [_method_clause(document, hole.path, chosen)]
        clauses += _model_clauses(document, hole.path, holes)
        needs = tuple(clause for clause in clauses if clause is not None)
        dimensions = tuple(replace(dimension, needs=needs) for dimension in hole.dimensions)
        with_needs.append(replace(hole, dimensions=dimensions))
    return tuple(with_needs)


def _method_clause(
    document: Mapping[str, Any], path: DocumentPath, chosen: Mapping[DocumentPath, Dimension]
) -> Clause | None:
    """Return the open methods that give a parameter a meaning; None if it always has one."""
    if "parameters" not in path:
        return None
    start: DocumentPath = path[:2] if path[0] == "merges" else ()
    top_method, name = (*start, "merge_method"), path[path.index("parameters") + 1]
    of_blocks = [
        (*start, "blocks", i, "merge_method") if "merge_method" in block else top_method
        for i, block in enumerate(_blocks(_at(document, start)))
    ]
    if path[len(start)] == "blocks":
        method_paths = [of_blocks[int(path[len(start) + 1])]] if of_blocks else []
    else:
        method_paths = [top_method, *of_blocks]
    pairs = []
    for method_path in dict.fromkeys(method_paths):
        if method_path not in chosen:  # fixed
            if _declares(_at(document, method_path), name):
                return None
            continue
        suiting = tuple(c for c in chosen[method_path].choices if _declares(c, name))
        if len(suiting) == len(chosen[method_path].choices):
            return None
        pairs.append((chosen[method_path].name, suiting))
    return tuple(pairs) if pairs else None


def _model_clauses(
    document: dict[str, Any], path: DocumentPath, holes: Sequence[Hole]
) -> list[Clause | None]:
    """Return the clauses of a model: it is in, or it stays because no other is in."""
    start: DocumentPath = path[:2] if path[0] == "merges" else ()
    models = _at(document, (*start, "models"))
    include_of = {
        model_of(document, hole.path): hole.dimensions[0].name
        for hole in holes
        if takes_part(hole.path) and hole.path[: len(start)] == start
    }
    model = model_of(document, path)
    if (
        not isinstance(models, list)
        or model not in include_of
        or path[len(start)] not in ("models", "blocks")
    ):
        return []
    is_last = len(include_of) == len(models) and model == next(iter(include_of))
    others = [name for other, name in include_of.items() if other != model]
    if takes_part(path):
        return [tuple((name, (True,)) for name in others)] if is_last else []
    if not is_last:
        return [((include_of[model], (True,)),)]
    return [((include_of[model], (True,)), (name, (False,))) for name in others]


def _blocks(recipe: Any) -> list[dict[str, Any]]:
    """Return the blocks; none where they are malformed, which the reader will say."""
    blocks = recipe.get("blocks") if isinstance(recipe, dict) else None
    is_fine = isinstance(blocks, list) and all(isinstance(block, dict) for block in blocks)
    return blocks if is_fine and blocks is not None else []


def _declares(method: Any, name: str | int) -> bool:
    if not isinstance(method, str) or method not in methods.names():
        return False
    return name in [p.name for p in methods.get(method).parameters]


def _at(document: Any, path: DocumentPath) -> Any:
    for part in path:
        document = document.get(part) if isinstance(document, dict) else document[part]
    return document
