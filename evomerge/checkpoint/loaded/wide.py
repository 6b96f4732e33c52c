"""Says how each tensor of a model is tiled in one k times as wide, and tries out that it works.

The shapes are those of transformers' own model of the wider config: a dimension stays, or is k
times as long. What a linear layer reads k times over is divided by k. Whether an architecture then
computes the same (fused projections and scaled embeddings do not) is seen on two small layers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from evomerge.checkpoint.architecture import layer_count
from evomerge.checkpoint.loaded.layers import stacked_config
from evomerge.checkpoint.loaded.residual import resized
from evomerge.checkpoint.loaded.skeleton import Skeleton, skeleton_of
from evomerge.core.errors import UserError

_WIDTHS = (  # keys of config.json that grow with the width
    *("hidden_size", "n_embd", "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"),
    *("num_attention_heads", "n_head", "num_key_value_heads", "word_embed_proj_dim"),
)
_MOST = 1e-3  # of the largest logit, what the trial may miss


class Tiling(NamedTuple):
    """Says which tensor of the narrow model is repeated into one of the wide, and how.

    Attributes:
        name: Of the wide model's tensor.
        source: Of the narrow one's.
        shape: Of the wide one.
        repeats: How often each dimension is repeated.
        reads: The dimension that a linear layer reads and that is repeated; ``None``: no such.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    repeats: tuple[int, ...]
    reads: int | None


def widened_config(config: Mapping[str, Any], factor: int) -> dict[str, Any]:
    """Return the config of a model `factor` times as wide, its embeddings untied.

    Raises:
        UserError: The architecture computes something else when it is widened.
    """
    _check(json.dumps(config, sort_keys=True))
    return _wider(config, factor)


def tilings(config: Mapping[str, Any], factor: int, stored: Iterable[str]) -> list[Tiling]:
    """Return the tiling of each tensor of the wide model, in the order of the narrow one's.

    Args:
        config: The narrow model's.
        factor: How many times as wide.
        stored: Names of the narrow model's tensors.

    Raises:
        UserError: A tensor has no place in the wide model.
    """
    narrow, wide = skeleton_of(config), skeleton_of(_wider(config, factor))
    assert narrow is not None, "widened_config was asked first"
    assert wide is not None, "widened_config was asked first"
    live = narrow.live_names(stored)
    result = [_tiling(name, name, live[name], live[name], narrow, wide) for name in live]
    sources = {there: name for name, there in live.items()}
    for target, source in narrow.tied.items():
        if target not in sources and source in sources:
            result.append(_tiling(target, sources[source], target, source, narrow, wide))
    return result


def _tiling(
    name: str, source: str, target: str, live: str, narrow: Skeleton, wide: Skeleton
) -> Tiling:
    before, after = narrow.shapes.get(live, ()), wide.shapes.get(target, ())
    if len(before) != len(after) or any(a % b for a, b in zip(after, before, strict=True)):
        raise UserError(
            f"widen: {name}: expected a tensor whose dimensions stay or grow by the factor, but it "
            f"is {list(before)} in the model, and {list(after)} in one that is wider"
        )
    repeats = tuple(a // b for a, b in zip(after, before, strict=True))
    kinds = wide.module_classes(target)
    reads = None
    if len(after) > 1 and "Embedding" not in kinds:
        reads = 0 if "Conv1D" in kinds else len(after) - 1
    return Tiling(
        name, source, after, repeats, reads if reads is not None and repeats[reads] > 1 else None
    )


def _wider(config: Mapping[str, Any], factor: int) -> dict[str, Any]:
    scope = {**config}
    if isinstance(config.get("hidden_size"), int) and config.get("num_attention_heads"):
        per_head = config["hidden_size"] // config["num_attention_heads"]
        scope["head_dim"] = config.get("head_dim") or per_head
    scope |= {k: v * factor for k, v in scope.items() if k in _WIDTHS and isinstance(v, int)}
    return {**scope, "tie_word_embeddings": False}


@lru_cache(maxsize=32)
def _check(text: str) -> None:
    config = json.loads(text)
    why = "transformers does not know it"
    for small in (True, False):
        scope = resized(config) if small else config
        try:
            second = min(1, (layer_count(scope) or 1) - 1)
            two = stacked_config(scope, [(scope, 0), (scope, second)])
            missed = None if skeleton_of(two) is None else _missed(two)
        except Exception as error:  # whatever a model's code raises on small shapes
            why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            continue
        if missed is None:
            continue
        if missed <= _MOST:
            return
        why = "its logits would be others (fused projections, or embeddings scaled by the width)"
        break
    raise UserError(f"widen: a {config.get('model_type')} cannot be widened: {why}")


def _missed(config: Mapping[str, Any]) -> float:
    """Return how far the logits of a random model are from those of its wide copy, relatively."""
    import torch

    narrow, wide = skeleton_of(config), skeleton_of(_wider(config, 2))
    if narrow is None or wide is None:
        raise ValueError("transformers makes no model of the wider config")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        first, second = (type(one.model)(one.model.config).eval() for one in (narrow, wide))
        for parameter in first.parameters():
            parameter.normal_(0, 0.5 / parameter.shape[-1] ** 0.5)
        ours, theirs = first.state_dict(), second.state_dict()
        parameters = [name for name, _ in first.named_parameters()]
        for tiling in tilings(config, 2, parameters):
            divisor = 1 if tiling.reads is None else tiling.repeats[tiling.reads]
            theirs[tiling.name].copy_(ours[tiling.source].repeat(tiling.repeats) / divisor)
        tokens = torch.arange(1, 13)[None] % int(first.config.get_text_config().vocab_size)
        expected, got = (one(input_ids=tokens, use_cache=False).logits for one in (first, second))
    return float((got - expected).abs().max() / expected.abs().max())
