"""Pruning removes from a filled recipe the models that are switched off and foreign parameters.

A parameter is foreign if the chosen method does not have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge import methods
from evomerge.recipe.space.holes import is_choice


def without_traces(document: Mapping[str, Any], template: Mapping[str, Any]) -> dict[str, Any]:
    """Return a filled template without absent models and without what needs another choice.

    Its `merges` are filled templates themselves, and are treated alike.

    Args:
        document: The template with a value in every hole.
        template: The template, whose holes show what was left open.
    """
    result = _without_inactive(_without_absent(document, template), template)
    if isinstance(document.get("merges"), dict):
        templates = template.get("merges") or {}
        result["merges"] = {
            name: without_traces(inner, templates.get(name) or {})
            for name, inner in document["merges"].items()
        }
    return result


def _without_absent(document: Mapping[str, Any], template: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the models that do not take part, here and in the blocks.

    If none does, the first stays: a recipe needs one.
    """
    result = dict(document)
    models, listed = document.get("models"), template.get("models")
    if isinstance(models, list) and isinstance(listed, list):
        is_open = [_is_open(entry) for entry in listed]
        is_in = [not o or e["include"] for e, o in zip(models, is_open, strict=True)]
        if models and not any(is_in):
            is_in[0] = True
        entries = [
            {k: v for k, v in entry.items() if k != "include"} if is_hole else entry
            for entry, is_hole in zip(models, is_open, strict=True)
        ]
        result["models"] = [entry for entry, stays in zip(entries, is_in, strict=True) if stays]
        gone = [e["model"] for e, stays in zip(entries, is_in, strict=True) if not stays]
        if gone and isinstance(document.get("blocks"), list):
            result["blocks"] = [_without(block, gone) for block in document["blocks"]]
    return result


def _is_open(entry: Any) -> bool:
    """Say whether a template leaves open if a model takes part."""
    if not isinstance(entry, dict) or "model" not in entry:
        return False
    return entry.get("include") == "search" or is_choice(entry.get("include"))


def _without(block: Any, gone: list[Any]) -> Any:
    if not isinstance(block, dict) or not isinstance(block.get("models"), list):
        return block
    remaining = [
        entry
        for entry in block["models"]
        if (entry.get("model") if isinstance(entry, dict) else entry) not in gone
    ]
    return (
        {**block, "models": remaining}
        if remaining
        else {k: v for k, v in block.items() if k != "models"}
    )


def _without_inactive(document: Mapping[str, Any], template: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the parameters that a chosen method does not have: no trace of them in the recipe.

    Only where `template` leaves the method open; elsewhere a stray parameter stays an error.
    """
    open_top = is_choice(template.get("merge_method"))
    blocks, open_blocks = document.get("blocks") or [], template.get("blocks") or []
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        return dict(document)  # the reader will say what is wrong
    top_method = document.get("merge_method")
    chosen = [str(block.get("merge_method", top_method)) for block in blocks]
    is_open = [
        is_choice(b["merge_method"]) if "merge_method" in b else open_top for b in open_blocks
    ]
    result = dict(document)
    if open_top or any(is_open):
        result = _pruned(result, [str(top_method), *chosen])
    if blocks:
        result["blocks"] = [
            _pruned(block, [method]) if is_open[i] else block
            for i, (block, method) in enumerate(zip(blocks, chosen, strict=True))
        ]
    return result


def _pruned(scope: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """Leave out of a recipe or block the parameters that only methods other than `names` have."""

    def declared(method_names: list[str]) -> set[str]:
        known = [name for name in method_names if name in methods.names()]
        return {p.name for name in known for p in methods.get(name).parameters}

    foreign = declared(list(methods.names())) - declared(names)

    def without_foreign(part: Any) -> Any:
        if not isinstance(part, dict) or not isinstance(part.get("parameters"), dict):
            return part
        return {
            **part,
            "parameters": {k: v for k, v in part["parameters"].items() if k not in foreign},
        }

    result: dict[str, Any] = without_foreign(dict(scope))
    if isinstance(scope.get("models"), list):
        result["models"] = [without_foreign(entry) for entry in scope["models"]]
    return result
