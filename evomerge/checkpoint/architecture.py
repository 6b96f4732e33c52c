"""Reads a tensor's layer, component and tied partner off its name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

COMPONENTS = (
    *("attention", "mlp", "experts", "shared_experts", "router"),
    *("norm", "embedding", "head", "vision", "other"),
)
# Components that a block of the wider one takes too, unless an earlier block names them.
WIDER = {"experts": "mlp", "shared_experts": "mlp", "router": "mlp"}

# "model.layers.3.", "transformer.h.3.", "gpt_neox.layers.3.", "model.decoder.blocks.3."
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block|layer)\.(\d+)\.")
# What a wrapper has beside its language model: towers of images and sounds, and what joins them.
_TOWERS = re.compile(
    r"(?:^|\.)(?:vision_tower|vision_embed_tokens|visual|audio_tower|multi_modal_projector"
    r"|mm_projector|embed_vision|embed_audio|image_newline)(?:\.|$)"
    r"|^model\.(?:vision_model|audio_model|connector)\."
)
# First match wins: q_norm inside self_attn is a norm, as its shape and role are.
_PATTERNS = (
    ("vision", _TOWERS),
    ("norm", re.compile(r"[nN]orm|(?:^|\.)ln_|\.ln\d")),
    ("head", re.compile(r"(?:^|\.)(?:lm_head|embed_out|score|classifier|output_projection)\.")),
    ("embedding", re.compile(r"embed|(?:^|\.)(?:wte|wpe)\.")),
    ("attention", re.compile(r"attn|attention")),
    ("shared_experts", re.compile(r"shared_expert|shared_mlp")),
    (
        "router",
        re.compile(
            r"(?:^|\.)(?:router|moe_statics|(?:mlp|block_sparse_moe|feed_forward|ffn|moe)\.gate)\."
        ),
    ),
    ("experts", re.compile(r"experts|block_sparse_moe\.(?:input|output)_linear")),
    ("mlp", re.compile(r"mlp|feed_forward|ffn|fc1|fc2")),
)
_OF_CLASSES = re.compile(r"(?:^|\.)(?:score|classifier|pre_classifier|classification_head)\.")
_OF_TOKENS = re.compile(
    r"(?:^|\.)(?:lm_head|embed_out|output_projection|cls|qa_outputs|vocab_\w+)\."
)
# Rows of positions, of segments and of classes, not of tokens.
_NOT_TOKENS = re.compile(r"wpe|position|token_type|(?:^|\.)(?:score|classifier)\.")
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
# Either of a pair may stand for the other where a model ties its embeddings.
_TIED = (
    ("lm_head.weight", "model.embed_tokens.weight"),
    ("lm_head.weight", "transformer.wte.weight"),
)


@dataclass(frozen=True)
class Location:
    """The location of a tensor: its layer (``None`` outside the stack) and its component."""

    layer: int | None
    component: str


@lru_cache(maxsize=100_000)
def locate(name: str) -> Location:
    """Read layer and component off a tensor's name.

    >>> locate("model.layers.3.self_attn.q_proj.weight")
    Location(layer=3, component='attention')
    >>> locate("model.norm.weight")
    Location(layer=None, component='norm')
    """
    match = _LAYER.search(name)
    rest = name[match.end() :] if match else name
    at = {"vision": name}  # the only component that the front of a name says
    component = next((c for c, pattern in _PATTERNS if pattern.search(at.get(c, rest))), "other")
    return Location(int(match.group(1)) if match else None, component)


@lru_cache(maxsize=100_000)
def stack_of(name: str) -> str:
    """Return the stack of layers that a tensor is in: its name before the number; '' outside.

    >>> stack_of("encoder.block.3.layer.0.wo.weight"), stack_of("shared.weight")
    ('encoder.block.', '')
    """
    match = _LAYER.search(name)
    return name[: match.start(1)] if match else ""


def is_head(name: str, *, of_classes: bool = False) -> bool:
    """Return whether a tensor belongs to what stands on a model's last layer, norms in it included.

    >>> is_head("classifier.dense.weight"), is_head("cls.predictions.transform.LayerNorm.weight")
    (True, True)
    >>> is_head("lm_head.weight", of_classes=True)
    False
    """
    return bool(_OF_CLASSES.search(name)) or (not of_classes and bool(_OF_TOKENS.search(name)))


def within_layer(name: str) -> str:
    """Return the part of a name behind its layer number; the whole name outside the stack.

    >>> within_layer("model.layers.3.mlp.up_proj.weight")
    'mlp.up_proj.weight'
    """
    match = _LAYER.search(name)
    return name[match.end() :] if match else name


def renumbered(name: str, layer: int) -> str:
    """Return the same name in another layer.

    >>> renumbered("model.layers.3.mlp.up_proj.weight", 11)
    'model.layers.11.mlp.up_proj.weight'
    """
    match = _LAYER.search(name)
    if match is None:
        raise ValueError(f"expected the name of a tensor in a layer but got {name}")
    return f"{name[: match.start(1)]}{layer}{name[match.end(1) :]}"


def tied_partner(name: str, names: Iterable[str]) -> str | None:
    """Return the tensor that stands in for `name` where embeddings are tied, if there is one."""
    known_names = set(names)
    for pair in _TIED:
        if name in pair:
            other = pair[1] if name == pair[0] else pair[0]
            if other in known_names:
                return other
    return None


def vocabulary_size(config: Mapping[str, Any]) -> int | None:
    """Return how many rows of embeddings a config.json declares; ``None`` if it does not say."""
    for scope in (config, config.get("text_config") or {}):
        if isinstance(scope.get("vocab_size"), int):
            return int(scope["vocab_size"])
    return None


def with_vocabulary_size(config: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Return the same config for another number of rows, wherever it declares one."""
    result = {**config, **({"vocab_size": size} if "vocab_size" in config else {})}
    if isinstance(config.get("text_config"), Mapping):
        result["text_config"] = with_vocabulary_size(config["text_config"], size)
    return result


def has_row_per_token(name: str, shape: Sequence[int], config: Mapping[str, Any]) -> bool:
    """Return whether a tensor has a row for each token: embeddings, heads and their biases.

    >>> has_row_per_token("model.embed_tokens.weight", (40, 16), {"vocab_size": 40})
    True
    >>> has_row_per_token("transformer.wpe.weight", (40, 16), {"vocab_size": 40})
    False
    """
    if locate(name).component not in ("embedding", "head") or _NOT_TOKENS.search(name):
        return False
    return len(shape) > 0 and shape[0] == vocabulary_size(config)


def layer_count(config: Mapping[str, Any]) -> int | None:
    """Return how many layers a config.json declares; ``None`` if it does not say."""
    for scope in (config, config.get("text_config") or {}):
        for key in LAYER_COUNTS:
            if isinstance(scope.get(key), int):
                return int(scope[key])
    return None


def stack_depths(names: Iterable[str], otherwise: int = 0) -> dict[str, int]:
    """Count the layers of each stack by its tensors' names; '' has the deepest's, or `otherwise`.

    >>> stack_depths(["h.0.mlp.weight", "h.1.mlp.weight", "ln_f.weight"])
    {'h.': 2, '': 2}
    """
    depths: dict[str, int] = {}
    for name in names:
        layer = locate(name).layer
        if layer is not None:
            depths[stack_of(name)] = max(layer + 1, depths.get(stack_of(name), 0))
    return {**depths, "": max(depths.values(), default=otherwise)}


def with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The same config for weights of another dtype, wherever it says one."""
    result: dict[str, Any] = {
        key: _with_inner_dtype(value, dtype)
        for key, value in config.items()
        if key not in ("dtype", "torch_dtype")
    }
    return {**result, "dtype": dtype}


def _with_inner_dtype(value: Any, dtype: str) -> Any:
    if isinstance(value, Mapping) and ("dtype" in value or "torch_dtype" in value):
        return with_dtype(value, dtype)
    return value


def with_layers(
    config: Mapping[str, Any], origin: Sequence[tuple[Mapping[str, Any], int]]
) -> dict[str, Any]:
    """Return a config for a stack whose layer i was that layer, of the model with that config.

    Per-layer lists (Qwen3's ``layer_types``) follow their layers.
    """
    result = dict(config)
    for key, value in config.items():
        if key in LAYER_COUNTS:
            result[key] = len(origin)
        elif _per_layer(key, config) and all(_per_layer(key, source) for source, _ in origin):
            result[key] = [source[key][layer] for source, layer in origin]
        elif key == "max_window_layers" and isinstance(value, int):
            result[key] = min(value, len(origin))
    return result


def _per_layer(key: str, config: Mapping[str, Any]) -> bool:
    """Return whether a key holds an entry per layer: by its length and its name
    (lest eos_token_id counts).
    """
    value = config.get(key)
    named = "layer" in key or "block" in key
    return named and isinstance(value, list) and len(value) == layer_count(config)
