"""Finds the tensors by which a layer adds to the hidden state, and tries out that scaling works.

A layer with norms in front of its blocks computes h + f(norm(h)), and norms do not see a scale:

    s h + f(norm(s h)) = s (h + f(norm(h)) / s)

So a layer whose input is multiplied by s is the same layer with what it adds divided by s, but for
a scale that the next norm removes, and for the norms' epsilon. Where a block's output is normalised
too, no weight says how much it adds. A model of two layers with random weights decides.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from evomerge.checkpoint.architecture import layer_count, locate
from evomerge.checkpoint.loaded.layers import stacked_config
from evomerge.checkpoint.loaded.skeleton import skeleton_of
from evomerge.core.errors import UserError

# Parts of the names of the last linear layer of attention and MLP, as transformers has them.
_WRITERS = (
    *("o_proj.", "out_proj.", "c_proj.", "attention.dense.", "self_attn.dense.", "attn.dense."),
    *("down_proj.", "fc2.", "dense_4h_to_h.", "fc_out.", ".w2."),
)
_FUSED = "experts.down_proj"  # transformers' experts of a layer in one tensor
_SMALL = {  # for the trial: the class computes alike whatever its widths are
    "hidden_size": 32,
    "n_embd": 32,
    "intermediate_size": 48,
    "n_inner": None,
    "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 48,
    "num_attention_heads": 4,
    "n_head": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 64,
}
_SCALE, _MOST = 3.0, 0.01  # of the trial, and what it may miss of the change that the scale makes


def residual_writers(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return parts of the names of what a layer adds to the hidden state by.

    Args:
        config: A config.json.

    Raises:
        UserError: Scaling these is not scaling a layer's input: blocks normalise what they add, or
            transformers does not know the architecture.
    """
    return _writers(json.dumps(config, sort_keys=True))


@lru_cache(maxsize=32)
def _writers(text: str) -> tuple[str, ...]:
    config = json.loads(text)
    why = "transformers does not know it"
    for small in (True, False):
        scope = resized(config) if small else config
        try:
            second = min(1, (layer_count(scope) or 1) - 1)
            trial = skeleton_of(stacked_config(scope, [(scope, 0), (scope, second)]))
            if trial is None:
                continue
            names = [
                name
                for name in trial.shapes
                if any(w in name for w in (*_WRITERS, _FUSED))
                and locate(name).layer is not None
                and locate(name).component != "vision"
            ]
            if not names:
                why = "no tensor of a layer is known to write to the hidden state"
                continue
            missed = _missed(trial.model, names)
        except Exception as error:  # whatever a model's code raises on small shapes
            why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            continue
        if missed <= _MOST:
            used = [w for w in _WRITERS if any(w in name for name in names)]
            if any(_FUSED in name for name in names):
                used += [w for w in ("down_proj.", ".w2.") if w not in used]
            return tuple(used)
        why = "its blocks normalise what they add, so that no weight scales it"
        break
    raise UserError(f"hop: a {config.get('model_type')} cannot scale the input of a layer: {why}")


def resized(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same config with small widths, in the language model of a wrapper too."""
    result = {key: _SMALL.get(key, value) for key, value in config.items()}
    for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
        result[key] = None
    inner = config.get("text_config")
    return {**result, "text_config": resized(inner)} if isinstance(inner, Mapping) else result


def _missed(skeleton: Any, names: list[str]) -> float:
    """Return how far the logits of scaled writers are from those of a scaled input, relatively."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = type(skeleton)(skeleton.config).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.5 / parameter.shape[-1] ** 0.5)
        tokens = torch.arange(1, 13)[None] % int(skeleton.config.get_text_config().vocab_size)
        layer = next(
            module
            for path, module in model.named_modules()
            if path.rpartition(".")[2] == "1" and any(n.startswith(f"{path}.") for n in names)
        )
        plain = model(input_ids=tokens, use_cache=False).logits
        hook = layer.register_forward_pre_hook(_scaled, with_kwargs=True)
        expected = model(input_ids=tokens, use_cache=False).logits
        hook.remove()
        inside = {id(parameter) for parameter in layer.parameters()}
        for name, parameter in model.named_parameters():
            if id(parameter) in inside and name in names:
                parameter /= _SCALE
        got = model(input_ids=tokens, use_cache=False).logits
    effect = (expected - plain).abs().max()
    if effect < 1e-3 * plain.abs().max():
        raise ValueError("its logits do not depend on that input")
    return float((got - expected).abs().max() / effect)


def _scaled(_: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """Multiply a layer's input, however it is called."""
    if arguments:
        return (arguments[0] * _SCALE, *arguments[1:]), keywords
    return arguments, {**keywords, "hidden_states": keywords["hidden_states"] * _SCALE}
