"""Resolves a config.json as transformers does, and says in what two of them compute differently.

A key that is not there has transformers' default, and one key may be said in several ways. So no
decision is made by the raw file where the resolved one is known.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import lru_cache
from typing import Any

from evomerge.core.errors import UserError

_MAX_LAYERS = 2000  # a config that asks for more would take minutes and memory to resolve
_OF_LAYERS = re.compile(r"(?:text_config\.)?(?:n_layers?|num_(?:hidden_)?layers|\w*layer\w*) is ")
_COUNTS = re.compile(r"(?:^|_)(?:layers?|depths?|blocks)$")
# Keys that change no logits: of training, of generation, names, and what files say by themselves.
_SILENT = re.compile(
    r"dropout|_pdrop|drop_path|layerdrop|initializer|init_std|_token_ids?$|^vocab_size$|^_|^output_"
    r"|^id2label$|^label2id$|^num_labels$|^problem_type$|^architectures$|^torch_dtype$|^dtype$"
    r"|^transformers_version$|^auto_map$|^use_cache$|^return_dict|^task_specific_params$"
    r"|^gradient_checkpointing$|^tie_word_embeddings$|^quantization_config$|^pretraining_tp$"
    r"|^is_(?:encoder_)?decoder$|_loss|^chunk_size_feed_forward$|^mask_(?:time|feature)_"
    r"|^finetuning_task$|^unsloth_version$|^model_type$"
)


def resolve_config(config: Mapping[str, Any]) -> Any:
    """The configuration that transformers makes of a config.json.

    Returns:
        A ``PretrainedConfig``; ``None`` where its ``model_type`` is unknown to transformers.

    Raises:
        UserError: transformers refuses it.
    """
    try:
        text = json.dumps(config, sort_keys=True)
    except (TypeError, ValueError):
        return None
    return _resolved(text)


def resolved_dict(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same as plain data; the raw config where transformers does not know it."""
    resolved = resolve_config(config)
    return dict(config) if resolved is None else dict(_plain(resolved.to_dict()))


def differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], *, stacked: bool = False
) -> list[str]:
    """Keys by which two models of one architecture compute differently, with both values.

    Args:
        ours: A config.json.
        theirs: Another one.
        stacked: Whether layers are stacked anew, so that their number and lists may differ.

    Returns:
        Lines such as ``rope_parameters.rope_theta is 20000000.0, not 10000.0``: theirs, not ours.
    """
    lines = [
        f"{path} is {_short(b)}, not {_short(a)}" for path, a, b in differing_keys(ours, theirs)
    ]
    return [line for line in lines if not (stacked and _OF_LAYERS.match(line))]


def differing_keys(
    ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """The same keys, each with our value and theirs; ``None`` where one has no such key."""
    return list(_differences(resolved_dict(ours), resolved_dict(theirs), ""))


def share_of_experts(config: Mapping[str, Any]) -> float:
    """The share of a mixture's experts, or of routed changes, that a token takes; else 1."""
    if "routed" in config:
        experts = config["routed"]["experts"]
        return float(config["routed"].get("top", experts) / experts)
    resolved = resolve_config(config)
    text = resolved and resolved.get_text_config(decoder=True)
    top = getattr(text, "num_experts_per_tok", None) or getattr(text, "top_k_experts", None)
    for key in ("num_experts", "num_local_experts", "n_routed_experts"):
        count = getattr(text, key, None)
        if isinstance(count, int) and isinstance(top, int) and count:
            return top / count
    return 1.0


@lru_cache(maxsize=256)
def _resolved(text: str) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.utils import logging

    config = json.loads(text, object_hook=_special_float)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        return None
    for key, count in _counts(config, ""):
        if count > _MAX_LAYERS:
            raise UserError(f"config.json: {key}: expected at most {_MAX_LAYERS:,}, got {count:,}")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return CONFIG_MAPPING[model_type].from_dict(deepcopy(config))
    except Exception as error:  # each class checks its keys in its own way
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(
            f"config.json: transformers cannot read it as {model_type}: "
            f"{' '.join(lines[:3]) or type(error).__name__}"
        ) from None
    finally:
        logging.set_verbosity(verbosity)


def _special_float(value: dict[str, Any]) -> Any:
    """Infinity and the like, which transformers writes as an object."""
    tag = value.get("__float__") if len(value) == 1 else None
    return float(tag) if tag in ("Infinity", "-Infinity", "NaN") else value


def _counts(value: Any, path: str) -> Iterator[tuple[str, int]]:
    """Numbers of layers, wherever a config has some."""
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, int) and _COUNTS.search(str(key)):
                yield f"{path}{key}", item
            yield from _counts(item, f"{path}{key}.")
    elif isinstance(value, list) and len(value) <= _MAX_LAYERS:
        for item in value:
            yield from _counts(item, path)


def _plain(value: Any) -> Any:
    """The same data without what JSON lacks."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], path: str
) -> Iterator[tuple[str, Any, Any]]:
    for key in dict.fromkeys([*ours, *theirs]):
        a, b = ours.get(key), theirs.get(key)
        if a == b or _SILENT.search(key):
            continue
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from _differences(a, b, f"{path}{key}.")
        else:
            yield f"{path}{key}", a, b


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
