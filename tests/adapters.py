"""LoRA adapters for tests, made by PEFT itself, and what PEFT makes of them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch


def make_adapter(folder: Path, base: str | Path, *, seed: int = 1, **config: Any) -> Path:
    """Save an adapter on a model, its factors and whatever else it trains moved at random."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    settings = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"], **config}
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT corrects fan_in_fan_out aloud
        torch.manual_seed(seed)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**settings))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.2 * torch.randn_like(parameter)
        model.save_pretrained(str(folder))
    return Path(folder)


def merged_by_peft(base: str | Path, adapter: str | Path) -> dict[str, torch.Tensor]:
    """The weights of `merge_and_unload`, by their names in the plain model."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base)
        merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    return {name: tensor.detach().clone() for name, tensor in merged.state_dict().items()}
