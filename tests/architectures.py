"""Configs of transformers' own classes, two layers and 16 wide, of kinds that users merge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers as t

ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
VOCABULARY = 40
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    **ENDS,
}
ROUTED = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
NEOX = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
TOWER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
TEXT = {**SMALL, "num_attention_heads": 2, "num_key_value_heads": 1}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
IMAGES = {
    "image_token_id": 39,
    "video_token_id": 38,
    "vision_start_token_id": 37,
    "vision_end_token_id": 36,
}
LATENT = {
    **{**SMALL, "num_key_value_heads": 4},
    "moe_intermediate_size": 8,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 4,
}

PLAIN: dict[str, Callable[[], Any]] = {
    "llama": lambda: t.LlamaConfig(**SMALL),
    "gpt2": lambda: t.GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, **ENDS),
    "gpt_neox": lambda: t.GPTNeoXConfig(**NEOX),
}
MIXTURES: dict[str, Callable[[], Any]] = {
    "mixtral": lambda: t.MixtralConfig(**SMALL, num_local_experts=4),
    "qwen2_moe": lambda: t.Qwen2MoeConfig(**SMALL, **ROUTED, shared_expert_intermediate_size=24),
    "qwen3_moe": lambda: t.Qwen3MoeConfig(**SMALL, **ROUTED, head_dim=8),
    "olmoe": lambda: t.OlmoeConfig(**SMALL, num_experts=4, num_experts_per_tok=2),
    "deepseek_v3": lambda: t.DeepseekV3Config(**LATENT),
    "gpt_oss": lambda: t.GptOssConfig(
        **SMALL, num_local_experts=4, num_experts_per_tok=2, head_dim=8
    ),
    "granitemoe": lambda: t.GraniteMoeConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2),
    "phimoe": lambda: t.PhimoeConfig(**SMALL, num_local_experts=4),
    "llama4_text": lambda: t.Llama4TextConfig(
        **SMALL, intermediate_size_mlp=32, num_local_experts=4, head_dim=8
    ),
}
WRAPPERS: dict[str, Callable[[], Any]] = {
    "gemma3": lambda: t.Gemma3Config(
        text_config={**TEXT, "head_dim": 8, "sliding_window": 64},
        vision_config=TOWER,
        mm_tokens_per_image=1,
        image_token_index=39,
        boi_token_index=38,
        eoi_token_index=37,
    ),
    "llava": lambda: t.LlavaConfig(
        text_config=t.LlamaConfig(**TEXT),
        vision_config=t.CLIPVisionConfig(**TOWER),
        image_token_index=39,
    ),
    "mistral3": lambda: t.Mistral3Config(
        text_config=t.MistralConfig(**TEXT, head_dim=8),
        vision_config=t.PixtralVisionConfig(**TOWER),
        image_token_index=39,
    ),
    "qwen2_vl": lambda: t.Qwen2VLConfig(
        text_config={**TEXT, "rope_parameters": MROPE},
        vision_config={
            "depth": 2,
            "embed_dim": 16,
            "hidden_size": 16,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 14,
        },
        **IMAGES,
    ),
    "qwen2_5_vl": lambda: t.Qwen2_5_VLConfig(
        text_config={**TEXT, "rope_parameters": MROPE},
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 32,
            "out_hidden_size": 16,
            "num_heads": 2,
            "patch_size": 14,
            "fullatt_block_indexes": [1],
        },
        **IMAGES,
    ),
    "smolvlm": lambda: t.SmolVLMConfig(
        text_config=t.LlamaConfig(**TEXT),
        vision_config=TOWER,
        image_token_id=39,
        scale_factor=1,
        pad_token_id=0,
    ),
}


def config_of(kind: str) -> Any:
    """The config of a kind; fresh, for transformers changes what it is given."""
    return {**PLAIN, **MIXTURES, **WRAPPERS}[kind]()
