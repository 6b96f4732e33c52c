"""Layers that are stacked keep their kind: attention, window, rotation, experts."""

import json
from copy import deepcopy

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from evomerge.core.errors import UserError
from evomerge.merge.build import build
from evomerge.recipe.recipe import Recipe
from tests.models import write_tokenizer

TOKENS = (torch.arange(12) * 7 % 36 + 4)[None]
SMALL = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4,
    "num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
HEADS = {"head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
ALTERNATING = ["sliding_attention", "full_attention"] * 2
# By name: the config's class, its settings, and keys of the file that are replaced (None: removed).
KINDS = {
    "gemma3, a pattern by number": (
        "Gemma3TextConfig",
        {**SMALL, **HEADS, "sliding_window": 4, "layer_types": ALTERNATING},
        {"layer_types": None, "_sliding_window_pattern": None, "sliding_window_pattern": 2},
    ),
    "gemma2, by default": (
        "Gemma2Config",
        {**SMALL, **HEADS, "sliding_window": 4},
        {"layer_types": None},
    ),
    "qwen2, from a layer on": (
        "Qwen2Config",
        {**SMALL, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
        {"layer_types": None},
    ),
    "cohere2, a pattern": (
        "Cohere2Config",
        {**SMALL, **HEADS, "sliding_window": 4, "layer_types": ALTERNATING},
        {"layer_types": None, "sliding_window_pattern": 2},
    ),
    "smollm3, rotation by an interval": (
        "SmolLM3Config",
        {**SMALL, "no_rope_layer_interval": 2},
        {"no_rope_layers": None, "layer_types": None},
    ),
    "qwen3-moe, a step": (
        "Qwen3MoeConfig",
        {**SMALL, **HEADS, **EXPERTS, "decoder_sparse_step": 2, "mlp_only_layers": []},
        {},
    ),
    "qwen2-moe, numbers of layers": (
        "Qwen2MoeConfig",
        {
            **SMALL,
            **EXPERTS,
            "shared_expert_intermediate_size": 16,
            "mlp_only_layers": [0],
            "decoder_sparse_step": 1,
        },
        {},
    ),
    "gpt-oss, a list": (
        "GptOssConfig",
        {**SMALL, **HEADS, "num_local_experts": 4, "sliding_window": 4},
        {},
    ),
    "olmo3, a list": ("Olmo3Config", {**SMALL, "sliding_window": 4}, {}),
    "granite, all alike": ("GraniteConfig", SMALL, {}),
}


def make(folder, config_class, settings, changed):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(getattr(transformers, config_class)(**settings))
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    file = folder / "config.json"
    document = {**json.loads(file.read_text()), **changed}
    file.write_text(json.dumps({key: v for key, v in document.items() if v is not None}))
    return folder


def stacked(model, *ranges):
    return Recipe.from_dict(
        {
            "merge_method": "passthrough",
            "slices": [
                {"sources": [{"model": str(model), "layer_range": list(r)}]} for r in ranges
            ],
            "dtype": "float32",
        }
    )


def logits(model):
    with torch.no_grad():
        return model(TOKENS, use_cache=False).logits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ranges", [((0, 1), (2, 4)), ((0, 3), (1, 4))])
def test_a_stack_computes_what_its_layers_compute_in_that_order(kind, ranges, tmp_path):
    folder = make(tmp_path / "model", *KINDS[kind])
    build(stacked(folder, *ranges), tmp_path / "out")
    order = [i for begin, end in ranges for i in range(begin, end)]
    whole = AutoModelForCausalLM.from_pretrained(folder)
    layers = whole.model.layers
    whole.model.layers = torch.nn.ModuleList(deepcopy(layers[i]) for i in order)
    whole.config.num_hidden_layers = len(order)
    if getattr(whole.config, "layer_types", None):
        whole.config.layer_types = [whole.config.layer_types[i] for i in order]
    built = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits(built), logits(whole))


def test_an_order_that_the_config_cannot_say_is_refused_by_layer_and_kind(tmp_path):
    settings = {
        **SMALL, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1,
        "moe_intermediate_size": 16, "n_shared_experts": 1, "first_k_dense_replace": 1,
        "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4,
        "v_head_dim": 8, "num_key_value_heads": 2,
    }  # fmt: skip
    folder = make(tmp_path / "model", "DeepseekV3Config", settings, {})
    stack = stacked(folder, (0, 2), (3, 4))
    build(stack, tmp_path / "kept")
    with pytest.raises(
        UserError, match=r"layer 2 of the result was layer 0, whose .* is .* no way"
    ):
        build(stacked(folder, (0, 2), (0, 2)), tmp_path / "out")


def test_a_layer_whose_attention_depends_on_its_number_is_refused_elsewhere(tmp_path):
    settings = {"vocab_size": 40, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 64}
    folder = make(
        tmp_path / "model",
        "GPT2Config",
        {**settings, "scale_attn_by_inverse_layer_idx": True},
        {},
    )
    with pytest.raises(UserError, match=r"whose attn\.scaling is"):
        build(stacked(folder, (0, 1), (2, 3)), tmp_path / "out")
