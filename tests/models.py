"""Tiny Hugging Face model folders for tests: two layers, sixteen wide, forty tokens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

ARCHITECTURES = ("llama", "qwen3", "gpt2")
VOCABULARY = ["<pad>", "<bos>", "<eos>", "<unk>", *(f"w{i}" for i in range(36))]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def make_model(
    folder: Path,
    architecture: str = "llama",
    *,
    seed: int = 0,
    layers: int = 2,
    dtype: str = "float32",
    tied: bool = False,
) -> Path:
    """Make a folder with config.json, model.safetensors and a tokenizer, and return it.

    Args:
        folder: Where; made if it is missing.
        architecture: One of `ARCHITECTURES`.
        seed: Of the random weights.
        layers: How many layers.
        dtype: What the weights are stored in.
        tied: Whether the head is the embedding matrix (GPT-2's always is).
    """
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(_config(architecture, layers, tied))
        for parameter in model.parameters():  # norms and biases are constants otherwise
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.to(DTYPES[dtype]).save_pretrained(folder)
    write_tokenizer(folder)
    return Path(folder)


def make_family(
    folder: Path,
    architecture: str = "llama",
    *,
    names: Sequence[str] = ("a", "b"),
    seed: int = 0,
    layers: int = 2,
    dtype: str = "float32",
    tied: bool = False,
    scale: float = 0.05,
) -> dict[str, str]:
    """Make a base and models near it, in folders of their names.

    Returns:
        The path of each by its name, ``base`` first.
    """
    base = make_model(
        folder / "base", architecture, seed=seed, layers=layers, dtype=dtype, tied=tied
    )
    paths = {"base": str(base)}
    for number, name in enumerate(names, 1):
        paths[name] = str(near(base, folder / name, seed=1000 * seed + number, scale=scale))
    return paths


def near(base: Path, folder: Path, *, seed: int, scale: float = 0.05) -> Path:
    """Copy a model and move every weight by `scale` times a normal number."""
    shutil.copytree(base, folder)
    generator = torch.Generator().manual_seed(seed)
    moved = {}
    for name, tensor in load_file(base / "model.safetensors").items():
        noise = scale * torch.randn(tensor.shape, generator=generator)
        moved[name] = (tensor.float() + noise).to(tensor.dtype)
    save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def retokenized(folder: Path, tokens: Sequence[str], *, seed: int = 0, rows: int = 0) -> Path:
    """Give a model another vocabulary: rows move with their tokens, new tokens get random rows.

    Args:
        folder: The model, changed in place.
        tokens: Every token in the order of its id; `VOCABULARY[:4]` are special.
        seed: Of the new rows.
        rows: How many rows there are, if more than tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    size = max(rows, len(tokens))
    stored = load_file(folder / "model.safetensors")
    for name, tensor in stored.items():
        if tensor.shape[0] != len(VOCABULARY) or "wpe" in name:
            continue
        moved = torch.randn(size, *tensor.shape[1:], generator=generator).to(tensor.dtype)
        for number, token in enumerate(tokens):
            if token in VOCABULARY:
                moved[number] = tensor[VOCABULARY.index(token)]
        stored[name] = moved
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    ends = {f"{name}_token_id": tokens.index(f"<{name}>") for name in ("pad", "bos", "eos")}
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": size, **ends}))
    write_tokenizer(folder, tokens)
    return folder


def load(folder: str | Path) -> dict[str, torch.Tensor]:
    """Every tensor of a model folder, whatever its shards."""
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def make_t5(folder: Path, *, seed: int = 0) -> Path:
    """Make a folder of a model with two stacks: three layers encode, four decode."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=len(VOCABULARY),
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=3,
        num_decoder_layers=4,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = T5ForConditionalGeneration(config)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return Path(folder)


def _config(architecture: str, layers: int, tied: bool) -> Any:
    from transformers import GPT2Config, LlamaConfig, Qwen3Config

    common = {
        "vocab_size": len(VOCABULARY),
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.3,
    }
    if architecture == "gpt2":
        return GPT2Config(**common, n_embd=16, n_layer=layers, n_head=2, n_positions=64)
    small = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "tie_word_embeddings": tied,
    }
    if architecture == "qwen3":
        return Qwen3Config(**common, **small, head_dim=8)
    assert architecture == "llama", architecture
    return LlamaConfig(**common, **small)


def write_tokenizer(folder: Path, tokens: Sequence[str] = VOCABULARY) -> None:
    """Write the tokenizer of one token a word, ids in the order of `tokens`."""
    tokenizer = Tokenizer(
        WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens([token for token in tokens if token.startswith("<")])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_settings(folder)


def write_settings(folder: Path) -> None:
    """Write the settings of a tokenizer whose special tokens are `VOCABULARY[:4]`."""
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
