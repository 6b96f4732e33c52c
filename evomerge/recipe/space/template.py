"""Binding puts models into a template that names none, and cuts its groups of layers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from evomerge.checkpoint.architecture import layer_count
from evomerge.checkpoint.dtypes import FLOATS
from evomerge.checkpoint.opening import config_of, open_model
from evomerge.core import yaml_file
from evomerge.core.errors import UserError

_MODEL_KEYS = ("model", "models", "base_model", "config", "tokenizer_source")


def bound(
    document: Mapping[str, Any], base: str | None, models: list[str], where: str
) -> dict[str, Any]:
    """Return a copy of a template with models in their places and its groups of layers cut.

    Raises:
        UserError: The template asks for a model that is not there, or leaves one out.
    """
    asked = placeholders(document)
    numbers = [int(word[1:]) for word in asked if word[1:].isdecimal()]
    if numbers and "*" not in asked and max(numbers) < len(models):
        raise UserError(
            f"{where}: it takes {max(numbers)} models (*1 to *{max(numbers)}), "
            f"but got {len(models)}"
        )

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

    def walk(value: Any, key: str = "") -> Any:
        if isinstance(value, list):
            items: list[Any] = []
            for item in value:
                if item == "*" and key == "models":
                    items += models
                elif isinstance(item, dict) and item.get("model") == "*":
                    items += [{**copy.deepcopy(item), "model": model} for model in models]
                else:
                    items.append(walk(item, key))
            return items
        if isinstance(value, dict):
            return {name: walk(item, name) for name, item in value.items()}
        return named(value) if isinstance(value, str) and key in _MODEL_KEYS else value

    result: dict[str, Any] = walk(dict(document))
    if any_groups(document):
        if base is None and not models:
            raise UserError(f"{where}: groups of layers need a model that says how many there are")
        result["blocks"] = _grouped(result["blocks"], base or models[0], where)
    return result


def tensors_of(model: str) -> dict[str, bool]:
    """A model's tensors by name, and whether they are floating point; tied copies left out."""
    return {name: info.dtype in FLOATS for name, info in open_model(model).tensors.items()}


def placeholders(document: Any, key: str = "") -> set[str]:
    """Return the placeholders for models in a template: ``*``, ``*1``, ``*base``."""
    if isinstance(document, dict):
        return {word for name, item in document.items() for word in placeholders(item, name)}
    if isinstance(document, list):
        return {word for item in document for word in placeholders(item, key)}
    asks = isinstance(document, str) and key in _MODEL_KEYS and document.startswith("*")
    return {document} if asks else set()


def any_groups(document: Mapping[str, Any]) -> bool:
    """Say whether a template has blocks whose layers are given as groups."""
    blocks = document.get("blocks")
    return isinstance(blocks, list) and any(
        isinstance(block, dict) and isinstance(block.get("layers"), dict) for block in blocks
    )


def _grouped(blocks: list[Any], model: str, where: str) -> list[Any]:
    """Cut blocks that say ``layers: {groups: n}`` into n of equal depth."""
    config = config_of(model)
    depth = layer_count(config)
    if depth is None:
        raise UserError(f"{model}/config.json: does not say how many layers there are")
    cut = []
    for block in blocks:
        layers = block.get("layers") if isinstance(block, dict) else None
        if not isinstance(layers, dict):
            cut.append(block)
            continue
        yaml_file.check_keys(layers, ("groups",), f"{where}: blocks.layers")
        groups = layers.get("groups")
        if type(groups) is not int or not 1 <= groups <= depth:
            raise UserError(
                f"{where}: blocks.layers.groups: expected 1 to {depth} (its layers), got {groups!r}"
            )
        edges = [round(depth * i / groups) for i in range(groups + 1)]
        cut += [{**copy.deepcopy(block), "layers": [*span]} for span in pairwise(edges)]
    return cut
