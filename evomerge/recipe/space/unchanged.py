"""Finds tensors that no adapter of a space changes, for which a value would have no effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch

from evomerge import methods
from evomerge.checkpoint.names import adapters_on
from evomerge.checkpoint.opening import open_model

_CHANGES_TOKENS = ("tokenizer_source", "tokenizer")


def unchanged(document: Mapping[str, Any], base: str) -> set[str]:
    """Return the tensors that are the base's own in every merge of a space.

    That is known where all models are adapters on the base, and every method gives the base where
    models equal it, whatever its parameters. Empty otherwise.

    Args:
        document: The space, bound to its models.
        base: Its base model.
    """
    recipes = [document, *(document.get("merges") or {}).values()]
    blocks = [block for recipe in recipes for block in recipe.get("blocks") or ()]
    merges = set(document.get("merges") or {})
    models = {name for part in (*recipes, *blocks) for name in _models(part)} - merges - {base}
    on_base = {model: adapters_on(model, base) for model in models}
    if not models or not all(on_base.values()):
        return set()
    if any(recipe.get("base_model") != base for recipe in recipes):
        return set()
    if any(key in recipe for recipe in recipes for key in (*_CHANGES_TOKENS, "slices", "path")):
        return set()
    named = {name for part in (*recipes, *blocks) for name in _methods(part)}
    if not all(name in methods.names() and _gives_base(name) for name in named):
        return set()
    opened = {model: open_model(model) for model in models}
    return {
        name
        for name in open_model(base).tensors
        if all(opened[m].factors(name, count or 0) == [] for m, count in on_base.items())
    }


def _models(part: Mapping[str, Any]) -> Iterator[str]:
    for entry in part.get("models") or ():
        yield entry if isinstance(entry, str) else entry["model"]


def _methods(part: Mapping[str, Any]) -> Iterator[str]:
    chosen = part.get("merge_method")
    yield from chosen["choice"] if isinstance(chosen, Mapping) else [chosen] if chosen else []


@lru_cache
def _gives_base(name: str) -> bool:
    """Try out whether a method gives the base where its models equal it, whatever its settings."""
    spec = methods.get(name)
    if spec.is_structure or not spec.takes_base or spec.takes:
        return False
    base = torch.linspace(-1.0, 2.0, 24).view(4, 6)
    models = [base.clone() for _ in range(spec.min_models)]
    random = methods.CounterRandom(0, name)
    ends: dict[str, list[Any]] = {
        p.name: list(p.choices) or [p.low, p.high] for p in spec.parameters
    }
    usual = {p.name: ends[p.name][-1] if p.required else p.default for p in spec.parameters}
    tried = [usual, *({**usual, key: end} for key, listed in ends.items() for end in listed)]
    tried += [_within(spec, k) for k in range(4)]
    given = [spec.apply(base, models, one, random if spec.stochastic else None) for one in tried]
    return all(torch.allclose(one, base, atol=1e-5) for one in given)


def _within(spec: methods.MethodSpec, k: int) -> dict[str, Any]:
    """Return the k-th of some settings within all ranges at once."""
    settings: dict[str, Any] = {}
    for i, parameter in enumerate(spec.parameters):
        if parameter.choices:
            settings[parameter.name] = parameter.choices[k % len(parameter.choices)]
        else:
            low, high = float(parameter.low or 0), float(parameter.high or 0)
            value = low + (high - low) * ((0.37 * i + 0.29 * k + 0.11) % 1)
            settings[parameter.name] = round(value) if parameter.kind == "int" else value
    return settings
