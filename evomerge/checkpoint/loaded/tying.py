"""Says which stored tensors are one in the live model, as transformers decides it.

A config ties a head to the embeddings, often by default alone. transformers still takes a head that
is stored beside them if its values differ, and ties it if they are equal or if only one is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from evomerge.checkpoint.architecture import tied_partner
from evomerge.checkpoint.files.header import TensorInfo
from evomerge.checkpoint.loaded.skeleton import Skeleton, skeleton_of


def loaded_tensors(
    config: Mapping[str, Any],
    stored: Mapping[str, TensorInfo],
    read: Callable[[str], Tensor],
) -> dict[str, TensorInfo]:
    """The stored tensors that make a difference: no ignored buffers, no second copy of a tied one.

    Args:
        config: The config.json.
        stored: Every tensor of the model's files.
        read: Reads one of them; used only where a tied pair is stored twice.

    Raises:
        UserError: transformers refuses the config.
    """
    skeleton = skeleton_of(config)
    if skeleton is None:
        return dict(stored)
    live = skeleton.live_names(stored)
    if all(name not in skeleton.shapes for name in live.values()):
        return dict(stored)  # another class wrote it: names alone decide
    dropped = {name for name in stored if skeleton.ignores(live[name])}
    by_live = {live_name: name for name, live_name in live.items()}
    for target, source in skeleton.tied.items():
        copy, original = by_live.get(target), by_live.get(source)
        if copy is not None and original is not None and copy != original:
            alike = stored[copy].shape == stored[original].shape
            if alike and torch.equal(read(copy), read(original)):
                dropped.add(copy)
    return {name: info for name, info in stored.items() if name not in dropped}


def live_prefixes(config: Mapping[str, Any], stored: Iterable[str]) -> dict[str, str]:
    """The live names of tensors that differ from theirs by the model's prefix alone.

    A file of BERT names its tensors ``bert.encoder…`` or ``encoder…``, one of GPT-2
    ``transformer.h…`` or ``h…``: transformers loads either, so models stored either way are alike.
    None where a file's names differ from the live ones by more (Gemma 3's wrapper, fused experts):
    there each architecture has one way to be stored, which the merge keeps.

    Raises:
        UserError: transformers refuses the config.
    """
    skeleton = skeleton_of(config)
    if skeleton is None or not skeleton.model.base_model_prefix:
        return {}
    prefix = f"{skeleton.model.base_model_prefix}."
    names = list(stored)
    taken, prefixed = set(names), {}
    for name, live in skeleton.live_names(names).items():
        if live == name or live not in skeleton.shapes:
            continue
        if name not in (prefix + live, live.removeprefix(prefix)):
            return {}
        if live not in taken:
            prefixed[name] = live
    return prefixed


def partner_of(name: str, config: Mapping[str, Any], stored: Mapping[str, str]) -> str | None:
    """The stored tensor that stands for a name which is not stored, as the two are tied.

    Args:
        name: Of a tensor, as a file would have it.
        config: The config.json.
        stored: Live names of the stored tensors.

    Raises:
        UserError: transformers refuses the config.
    """
    skeleton = skeleton_of(config)
    if skeleton is None:
        tied = config.get("tie_word_embeddings") is not False
        return tied_partner(name, stored) if tied else None
    if not skeleton.tied:
        return None
    live = skeleton.live_names([name])[name]
    group = skeleton.tied.get(live, live)
    return next(
        (
            other
            for other, other_live in stored.items()
            if other != name and skeleton.tied.get(other_live, other_live) == group
        ),
        None,
    )


def tied_names(name: str, config: Mapping[str, Any], stored: Mapping[str, str]) -> list[str]:
    """Live names of the tensors that are this stored one too, in a model that ties them.

    Args:
        name: Of a stored tensor.
        config: The config.json.
        stored: Live names of the stored tensors.

    Raises:
        UserError: transformers refuses the config.
    """
    skeleton = skeleton_of(config)
    if skeleton is None:
        tied = bool(config.get("tie_word_embeddings"))
        partner = tied_partner(name, ("lm_head.weight",)) if tied else None
        return [] if partner is None or partner in stored else [partner]
    live, separate = stored[name], set(stored.values())
    group = skeleton.tied.get(live, live)
    members = [group, *(target for target, source in skeleton.tied.items() if source == group)]
    return [member for member in members if member != live and member not in separate]


def config_for(config: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The config of a model that stores these tensors: it ties none that are stored one by one."""
    result = dict(config)
    skeleton = skeleton_of(config)
    if skeleton is None or not _stored_twice(skeleton, names):
        return result
    result["tie_word_embeddings"] = False
    changed = skeleton_of(result)
    inner = config.get("text_config")
    if changed is not None and _stored_twice(changed, names) and isinstance(inner, Mapping):
        result["text_config"] = {**inner, "tie_word_embeddings": False}
    return result


def heads_to_fill(config: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    """Live names that no stored tensor has, and the stored ones that they equal as they are tied.

    Args:
        config: The config.json of the model whose tensors are stored.
        names: The stored ones.
    """
    skeleton = skeleton_of(config)
    if skeleton is None or not skeleton.tied:
        return {}
    stored = {live: name for name, live in skeleton.live_names(names).items()}
    result: dict[str, str] = {}
    for target, source in skeleton.tied.items():
        group = [source, *(other for other, root in skeleton.tied.items() if root == source)]
        original = next((stored[live] for live in group if live in stored), None)
        if original is not None:
            result |= {live: original for live in (target, source) if live not in stored}
    return result


def _stored_twice(skeleton: Skeleton, names: Iterable[str]) -> bool:
    live = set(skeleton.live_names(names).values())
    return any(target in live and source in live for target, source in skeleton.tied.items())
