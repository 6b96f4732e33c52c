"""The corpus: every architecture as transformers' own config classes make it, two or three layers.

Nothing here names a tensor: the models are what transformers makes, stores and loads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VOCABULARY = 40
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WIDE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    **IDS,
}
HEADS = {"head_dim": 8}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
CAUSAL = "AutoModelForCausalLM"
IMAGES = "AutoModelForImageTextToText"


@dataclass(frozen=True)
class Architecture:
    """One row of the corpus.

    Attributes:
        name: As people call it.
        config: The config's class.
        settings: Its arguments.
        loader: The class that loads it.
        head: A class in place of the loader's, that makes it.
        quick: Whether it runs in the default suite, and not only behind the marker.
    """

    name: str
    config: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    loader: str = CAUSAL
    head: str | None = None
    quick: bool = False

    @property
    def is_language_model(self) -> bool:
        """Return whether text tasks score it."""
        return self.loader in (CAUSAL, IMAGES)


GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
DEEPSEEK = {
    **WIDE,
    **EXPERTS,
    "n_routed_experts": 4,
    "n_group": 2,
    "topk_group": 1,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
BERT = {
    key: WIDE[key]
    for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
} | {"num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0}

CORPUS = (
    Architecture("Llama 2", "LlamaConfig", {**WIDE, "tie_word_embeddings": False}, quick=True),
    Architecture(
        "Llama 3.2",
        "LlamaConfig",
        {
            **WIDE,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    Architecture("Mistral", "MistralConfig", {**WIDE, "sliding_window": 8}),
    Architecture("Ministral", "MinistralConfig", {**WIDE, **HEADS, "sliding_window": 8}),
    Architecture("Qwen2", "Qwen2Config", WIDE),
    Architecture("Qwen2.5, tied", "Qwen2Config", {**WIDE, "tie_word_embeddings": True}),
    Architecture("Qwen3", "Qwen3Config", {**WIDE, **HEADS}),
    Architecture("Gemma", "GemmaConfig", {**WIDE, **HEADS}),
    Architecture("Gemma 2", "Gemma2Config", {**WIDE, **HEADS, "sliding_window": 8}, quick=True),
    Architecture("Gemma 3", "Gemma3TextConfig", {**WIDE, **HEADS, "sliding_window": 8}),
    Architecture(
        "Gemma 3n, text",
        "Gemma3nTextConfig",
        {
            **WIDE,
            **HEADS,
            "intermediate_size": [32, 32, 32],
            "num_hidden_layers": 3,
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 4,
            "num_kv_shared_layers": 1,
            "altup_num_inputs": 2,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            "activation_sparsity_pattern": [0.5, 0.0, 0.0],
        },
    ),
    Architecture("Phi-3", "Phi3Config", WIDE),
    Architecture("SmolLM3", "SmolLM3Config", {**WIDE, "no_rope_layer_interval": 2}),
    Architecture("OLMo 2", "Olmo2Config", WIDE),
    Architecture("OLMo 3", "Olmo3Config", {**WIDE, "sliding_window": 8}),
    Architecture("Cohere", "CohereConfig", WIDE),
    Architecture("Cohere 2", "Cohere2Config", {**WIDE, **HEADS, "sliding_window": 8}),
    Architecture("Granite", "GraniteConfig", {**WIDE, "logits_scaling": 2.0}),
    Architecture("StarCoder 2", "Starcoder2Config", WIDE),
    Architecture("StableLM", "StableLmConfig", WIDE),
    Architecture("GLM-4", "Glm4Config", {**WIDE, **HEADS}),
    Architecture("EXAONE 4", "Exaone4Config", {**WIDE, "sliding_window": 8}),
    Architecture("Nemotron", "NemotronConfig", WIDE),
    Architecture("GPT-2", "GPT2Config", {**GPT2, **IDS}, quick=True),
    Architecture(
        "GPT-NeoX",
        "GPTNeoXConfig",
        {k: v for k, v in WIDE.items() if k != "num_key_value_heads"},
    ),
    Architecture(
        "OPT",
        "OPTConfig",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "ffn_dim": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            "word_embed_proj_dim": 32,
            **IDS,
        },
    ),
    Architecture(
        "BLOOM",
        "BloomConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4, **IDS},
    ),
    Architecture(
        "Falcon",
        "FalconConfig",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            **IDS,
        },
    ),
    Architecture(
        "MPT",
        "MptConfig",
        {
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "n_layers": 2,
            "n_heads": 4,
            "max_seq_len": 128,
            **IDS,
        },
    ),
    Architecture(
        "Mixtral",
        "MixtralConfig",
        {**WIDE, "num_local_experts": 4, "num_experts_per_tok": 2},
        quick=True,
    ),
    Architecture(
        "Qwen2-MoE",
        "Qwen2MoeConfig",
        {**WIDE, **EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 16},
    ),
    Architecture("Qwen3-MoE", "Qwen3MoeConfig", {**WIDE, **HEADS, **EXPERTS, "num_experts": 4}),
    Architecture("OLMoE", "OlmoeConfig", {**WIDE, "num_experts": 4, "num_experts_per_tok": 2}),
    Architecture("DeepSeek-V3", "DeepseekV3Config", DEEPSEEK),
    Architecture(
        "gpt-oss",
        "GptOssConfig",
        {**WIDE, **HEADS, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    ),
    Architecture(
        "Granite MoE",
        "GraniteMoeConfig",
        {**WIDE, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    Architecture(
        "Mamba 2",
        "Mamba2Config",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_heads": 8,
            "head_dim": 8,
            "expand": 2,
            "state_size": 8,
            "n_groups": 1,
            "chunk_size": 8,
            **IDS,
        },
    ),
    Architecture(
        "T5",
        "T5Config",
        {
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 32,
            "num_layers": 2,
            "num_heads": 4,
            "pad_token_id": 0,
            "eos_token_id": 2,
            "decoder_start_token_id": 0,
        },
        "AutoModelForSeq2SeqLM",
    ),
    Architecture("BERT, classifier", "BertConfig", BERT, "AutoModelForSequenceClassification"),
    Architecture(
        "RoBERTa, masked", "RobertaConfig", {**BERT, "pad_token_id": 1}, "AutoModelForMaskedLM"
    ),
    Architecture("ViT", "ViTConfig", VISION, "AutoModelForImageClassification"),
    Architecture(
        "Whisper",
        "WhisperConfig",
        {
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "num_mel_bins": 8,
            "max_source_positions": 16,
            "max_target_positions": 32,
            "decoder_start_token_id": 1,
            "suppress_tokens": None,
            "begin_suppress_tokens": None,
            **IDS,
        },
        "AutoModelForSpeechSeq2Seq",
    ),
    Architecture(
        "Gemma 3, images",
        "Gemma3Config",
        {
            "text_config": {**WIDE, **HEADS, "sliding_window": 8},
            "vision_config": VISION,
            "mm_tokens_per_image": 1,
            "image_token_index": 39,
            "boi_token_index": 38,
            "eoi_token_index": 37,
        },
        IMAGES,
        quick=True,
    ),
    Architecture(
        "Qwen2-VL",
        "Qwen2VLConfig",
        {
            "text_config": {
                **WIDE,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 1e4,
                    "mrope_section": [1, 1, 2],
                },
            },
            "vision_config": {
                "depth": 2,
                "embed_dim": 32,
                "hidden_size": 32,
                "num_heads": 4,
                "mlp_ratio": 1,
                "patch_size": 14,
            },
            "image_token_id": 39,
            "video_token_id": 38,
            "vision_start_token_id": 37,
            "vision_end_token_id": 36,
        },
        IMAGES,
    ),
    Architecture(
        "Qwen2.5-VL",
        "Qwen2_5_VLConfig",
        {
            "text_config": {
                **WIDE,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 1e4,
                    "mrope_section": [1, 1, 2],
                },
            },
            "vision_config": {
                "depth": 2,
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_heads": 4,
                "out_hidden_size": 32,
                "patch_size": 14,
                "fullatt_block_indexes": [1],
            },
            "image_token_id": 39,
            "video_token_id": 38,
            "vision_start_token_id": 37,
            "vision_end_token_id": 36,
        },
        IMAGES,
    ),
    Architecture(
        "LLaVA",
        "LlavaConfig",
        {
            "text_config": {**WIDE, "model_type": "llama"},
            "vision_config": {**VISION, "model_type": "clip_vision_model", "projection_dim": 32},
            "image_token_index": 39,
        },
        IMAGES,
    ),
    Architecture(
        "Mistral 3",
        "Mistral3Config",
        {
            "text_config": {**WIDE, "model_type": "mistral"},
            "vision_config": {**VISION, "model_type": "pixtral", "head_dim": 8},
            "image_token_index": 39,
        },
        IMAGES,
    ),
    Architecture(
        "SmolVLM",
        "SmolVLMConfig",
        {
            "text_config": {**WIDE, "model_type": "llama"},
            "vision_config": VISION,
            "image_token_id": 39,
        },
        IMAGES,
    ),
)
