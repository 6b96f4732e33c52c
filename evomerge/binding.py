"""From a template that names no models to a space over some, and from a choice to what it needs."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from evomerge import methods, yaml_file
from evomerge.architecture import layer_count
from evomerge.errors import UserError
from evomerge.holes import is_choice


def bound(
    document: Mapping[str, Any], base: str | None, models: list[str], where: str
) -> dict[str, Any]:
    """A copy of a template with models in their places and its groups of layers cut.

    Raises:
        UserError: The template asks for a model that is not there.
    """

    def named(value: str) -> str:
        if not value.startswith("*"):
            return value
        if value == "*base":
            if base is None:
                raise UserError(f"{where}: it asks for a base model and there is none")
            return base
        number = value[1:]
        if not number.isdecimal() or not 1 <= int(number) <= len(models):
            raise UserError(
                f"{where}: it asks for model {value} but there are {len(models)} models"
            )
        return models[int(number) - 1]

    def walk(value: Any) -> Any:
        if isinstance(value, list):
            items: list[Any] = []
            for item in value:
                if item == "*":
                    items += models
                elif isinstance(item, dict) and item.get("model") == "*":
                    items += [{**copy.deepcopy(item), "model": model} for model in models]
                else:
                    items.append(walk(item))
            return items
        if isinstance(value, dict):
            return {key: walk(item) for key, item in value.items()}
        return named(value) if isinstance(value, str) else copy.deepcopy(value)

    result: dict[str, Any] = walk(dict(document))
    if "blocks" in result:
        result["blocks"] = _grouped(result["blocks"], base or models[0], where)
    return result


def _grouped(blocks: Any, model: str, where: str) -> list[Any]:
    """Cut blocks that say ``layers: {groups: n}`` into n of equal depth."""
    cut = []
    for block in blocks:
        layers = block.get("layers") if isinstance(block, dict) else None
        if not isinstance(layers, dict):
            cut.append(block)
            continue
        yaml_file.check_keys(layers, ("groups",), f"{where}: blocks.layers")
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
        depth, groups = layer_count(config), layers.get("groups")
        if depth is None:
            raise UserError(f"{model}/config.json: does not say how many layers there are")
        if type(groups) is not int or not 1 <= groups <= depth:
            raise UserError(
                f"{where}: blocks.layers.groups: expected 1 to {depth} (its layers), got {groups!r}"
            )
        edges = [round(depth * i / groups) for i in range(groups + 1)]
        cut += [{**copy.deepcopy(block), "layers": [*span]} for span in pairwise(edges)]
    return cut


def without_inactive(document: Mapping[str, Any], template: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the parameters that a chosen method does not have: no trace of them in the recipe.

    Only where `template` leaves the method open; elsewhere a stray parameter stays an error.
    """
    open_top = is_choice(template.get("merge_method"))
    blocks, open_blocks = document.get("blocks") or [], template.get("blocks") or []
    chosen = [str(block.get("merge_method", document["merge_method"])) for block in blocks]
    is_open = [
        is_choice(b["merge_method"]) if "merge_method" in b else open_top for b in open_blocks
    ]
    result = dict(document)
    if open_top or any(is_open):
        result = _pruned(result, [str(document["merge_method"]), *chosen])
    if blocks:
        result["blocks"] = [
            _pruned(block, [method]) if is_open[i] else block
            for i, (block, method) in enumerate(zip(blocks, chosen, strict=True))
        ]
    return result


def _pruned(scope: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """A recipe or a block without the parameters that only methods other than `names` have."""

    def declared(some: list[str]) -> set[str]:
        return {p.name for name in some for p in methods.get(name).parameters}

    foreign = declared(list(methods.names())) - declared(names)

    def kept(part: Any) -> Any:
        if not isinstance(part, dict) or not isinstance(part.get("parameters"), dict):
            return part
        return {
            **part,
            "parameters": {k: v for k, v in part["parameters"].items() if k not in foreign},
        }

    result: dict[str, Any] = kept(dict(scope))
    if isinstance(scope.get("models"), list):
        result["models"] = [kept(entry) for entry in scope["models"]]
    return result
