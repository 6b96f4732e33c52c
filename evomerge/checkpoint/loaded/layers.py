"""Writes the config of a stack of layers, each of which stays of the kind that it was.

Configs say a layer's kind in several ways: a list by layer, a pattern, a step, a list of numbers,
or a default. The resolved config has lists where transformers makes any, and those follow their
layers. The rest is checked on the models themselves, without weights; what cannot be said is
refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.checkpoint.architecture import LAYER_COUNTS, layer_count, with_layers
from evomerge.checkpoint.loaded.config import resolve_config, resolved_dict
from evomerge.checkpoint.loaded.skeleton import skeleton_of
from evomerge.core.errors import UserError

Origin = Sequence[tuple[Mapping[str, Any], int]]


def stacked_config(config: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
    """A config for a stack whose layer i was that layer, of the model with that config.

    Args:
        config: The config.json that all else comes from.
        origin: For each layer of the result the config.json it comes from, and its number there.

    Raises:
        UserError: The architecture's config cannot say the kinds of these layers in this order.
    """
    if resolve_config(config) is None or any(resolve_config(c) is None for c in _different(origin)):
        return with_layers(config, origin)
    inner = _inner(config)
    scope = config if inner is None else config[inner]
    lists = _lists(config, origin)
    changed = {**_counted(scope, len(origin)), **lists}
    result = _put(config, inner, {**scope, **changed})
    mismatch = _mismatch(result, origin)
    if mismatch and "mlp_only_layers" in resolved_dict(result):
        dense = [i for i, kind in enumerate(_kinds_of(origin)) if not _is_sparse(kind)]
        by_number = {"mlp_only_layers": dense, "decoder_sparse_step": 1}
        result = _put(config, inner, {**scope, **changed, **by_number})
        mismatch = _mismatch(result, origin)
    if mismatch:
        raise UserError(
            f"{mismatch}; config.json of a {config.get('model_type')} has no way to say that of "
            "layers in this order: keep each layer's kind where it is"
        )
    return result


def _inner(config: Mapping[str, Any]) -> str | None:
    """The key under which a config has that of its language model; ``None`` if it is itself."""
    if layer_count({k: v for k, v in config.items() if k != "text_config"}) is not None:
        return None
    return "text_config" if isinstance(config.get("text_config"), Mapping) else None


def _put(config: Mapping[str, Any], inner: str | None, scope: dict[str, Any]) -> dict[str, Any]:
    return scope if inner is None else {**config, inner: scope}


def _counted(scope: Mapping[str, Any], count: int) -> dict[str, Any]:
    counted: dict[str, Any] = {key: count for key in LAYER_COUNTS if key in scope}
    if isinstance(scope.get("max_window_layers"), int):
        counted["max_window_layers"] = min(scope["max_window_layers"], count)
    return counted


def _lists(config: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
    """Every list with an entry per layer that transformers makes of the configs, re-ordered."""
    ours = _resolved_scope(config)
    scopes = {id(source): _resolved_scope(source) for source in _different(origin)}
    sources = [(scopes[id(source)], layer) for source, layer in origin]
    return {
        key: [source[key][layer] for source, layer in sources]
        for key in ours
        if "token" not in key
        and _per_layer(ours, key)
        and all(_per_layer(source, key) for source, _ in sources)
    }


def _resolved_scope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    inner, resolved = _inner(config), resolved_dict(config)
    return resolved if inner is None else resolved[inner]


def _per_layer(scope: Mapping[str, Any], key: str) -> bool:
    value = scope.get(key)
    return isinstance(value, list) and len(value) == layer_count(scope) and key != "architectures"


def _different(origin: Origin) -> list[Mapping[str, Any]]:
    """Return each config of an origin once; those of many layers are one object."""
    return list({id(config): config for config, _ in origin}.values())


def _kinds_of(origin: Origin) -> list[Mapping[str, Any]]:
    kinds = {id(config): _kinds(config) for config in _different(origin)}
    return [kinds[id(config)][layer] for config, layer in origin]


def _kinds(config: Mapping[str, Any]) -> Mapping[int, Mapping[str, Any]]:
    """The kinds of the language model's layers by number; empty if there is not one stack."""
    skeleton = skeleton_of(config)
    if skeleton is None:
        return {}
    wanted = layer_count(config if _inner(config) is None else config["text_config"])
    stacks = [kinds for kinds in skeleton.layer_kinds.values() if len(kinds) == wanted]
    return stacks[0] if len(stacks) == 1 else {}


def _mismatch(result: Mapping[str, Any], origin: Origin) -> str | None:
    """The first layer whose kind would be another than where it comes from, and in what."""
    now = _kinds(result)
    models = {id(config): _kinds(config) for config in _different(origin)}
    if len(now) != len(origin) or not all(models.values()):
        return None
    varying: set[str] = set()
    for kinds in (now, *models.values()):
        first = next(iter(kinds.values()))
        for kind in kinds.values():
            if kind != first:
                varying |= {key for key in {*kind, *first} if kind.get(key) != first.get(key)}
    for i, (config, layer) in enumerate(origin if varying else ()):
        kinds = models[id(config)]
        if layer not in kinds:
            return None  # said elsewhere: there is no such layer
        for key in sorted(varying):
            before, after = kinds[layer].get(key), now[i].get(key)
            if before != after:
                return f"layer {i} of the result was layer {layer}, whose {key} is {before}: " + (
                    f"it would be {after}"
                )
    return None


def _is_sparse(kind: Mapping[str, Any]) -> bool:
    return any(".experts" in f".{key}" for key in kind)
