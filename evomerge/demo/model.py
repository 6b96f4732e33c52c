"""Makes the zoo's models: small Hugging Face causal language models with tied embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evomerge.demo.language import BOS, EOS, LONGEST_TEXT, PAD, WORDS
from evomerge.demo.settings import HEAD_WIDTH, Settings

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def new_model(settings: Settings, words: int = len(WORDS)) -> PreTrainedModel:
    """Return a model with fresh float32 weights drawn from torch's global generator.

    Called in a separate training process, so seeding that generator affects nothing else.

    Args:
        settings: Its size and seed.
        words: How many its language has.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    torch.manual_seed(settings.seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        config(settings, words), dtype=torch.float32
    )
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, do_sample=False
    )
    return model


def config(settings: Settings, words: int = len(WORDS)) -> PretrainedConfig:
    """Return the architecture's own configuration at the size that `settings` asks for."""
    from transformers import AutoConfig

    heads = settings.hidden // HEAD_WIDTH
    size: dict[str, Any]
    if settings.architecture == "gpt2":
        size = {
            "n_embd": settings.hidden,
            "n_layer": settings.layers,
            "n_head": heads,
            "n_positions": LONGEST_TEXT,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "resid_pdrop": 0.0,
        }
    else:
        size = {
            "hidden_size": settings.hidden,
            "intermediate_size": 3 * settings.hidden,
            "num_hidden_layers": settings.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "head_dim": HEAD_WIDTH,
            "max_position_embeddings": LONGEST_TEXT,
        }
    made: PretrainedConfig = AutoConfig.for_model(
        settings.architecture,
        vocab_size=words,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        tie_word_embeddings=True,
        initializer_range=0.04,
        **size,
    )
    return made
