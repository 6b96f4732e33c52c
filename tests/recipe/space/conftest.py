"""A zoo that spaces are bound to."""

import json

import pytest
import torch
from safetensors.torch import save_file

SIX_LAYERS = {"model_type": "llama", "num_hidden_layers": 6, "hidden_size": 32}


@pytest.fixture
def zoo(tmp_path):
    """Folders that look like models of six layers, as far as a space looks."""
    for name in ("base", "a", "b", "c", "d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(SIX_LAYERS))
    ends = ("self_attn.q_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm")
    tensors = [f"model.layers.{i}.{end}.weight" for i in range(6) for end in ends]
    tensors += ["model.embed_tokens.weight", "model.norm.weight"]
    save_file({t: torch.zeros(1) for t in tensors}, tmp_path / "base" / "model.safetensors")
    return {name: str(tmp_path / name) for name in ("base", "a", "b", "c", "d")}
