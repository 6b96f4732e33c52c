"""No tensor of a scored model has values that no checkpoint gave it; none is dropped silently."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.core.errors import UserError
from evomerge.evaluate.model import load_model
from evomerge.merge.build import fill
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import plan
from evomerge.recipe.recipe import Recipe
from tests.models import make_family

Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], None]


def untie(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    del tensors
    config["tie_word_embeddings"] = False


def add_a_layer(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    del tensors
    config["num_hidden_layers"] = 3
    config.pop("layer_types", None)


def add_biases(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    del tensors
    config["attention_bias"] = True


def lose_a_norm(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    del config
    del tensors["model.layers.1.input_layernorm.weight"]


MISSING: dict[str, tuple[Change, str]] = {
    "the head is not tied": (untie, r"lm_head\.weight"),
    "a whole layer": (add_a_layer, r"model\.layers\.2\.input_layernorm\.weight"),
    "biases": (add_biases, r"model\.layers\.0\.self_attn\.k_proj\.bias"),
    "a norm": (lose_a_norm, r"model\.layers\.1\.input_layernorm\.weight"),
}


def changed_family(folder: Path, change: Change) -> dict[str, str]:
    """A base and two models of tied Llamas, all changed alike."""
    family = make_family(folder, tied=True)
    for model in map(Path, family.values()):
        config = json.loads((model / "config.json").read_text())
        tensors = load_file(model / "model.safetensors")
        change(config, tensors)
        (model / "config.json").write_text(json.dumps(config))
        save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    return family


def filled(family: dict[str, str]) -> None:
    """Merge a family into a live model that is made of its config alone."""
    config = json.loads((Path(family["base"]) / "config.json").read_text())
    from transformers import LlamaConfig, LlamaForCausalLM

    live = LlamaForCausalLM(LlamaConfig.from_dict(config))
    recipe = Recipe.from_dict(
        {
            "merge_method": "task_arithmetic",
            "base_model": family["base"],
            "models": [{"model": family[n], "parameters": {"weight": 0.5}} for n in "ab"],
        }
    )
    parents = Parents(recipe.model_names)
    fill(live, plan(recipe, parents.checkpoints), parents)


@pytest.mark.parametrize("what", MISSING)
def test_a_tensor_that_the_config_needs_and_no_file_has_is_named(tmp_path: Path, what: str) -> None:
    change, name = MISSING[what]
    family = changed_family(tmp_path, change)
    with pytest.raises(UserError, match=rf"but {name} is missing.* it would get random values"):
        load_model(family["base"])
    with pytest.raises(UserError, match=r"LlamaForCausalLM needs a tensor \S+ of shape .* lack"):
        filled(family)


def test_a_tensor_that_would_be_dropped_is_named(tmp_path: Path) -> None:
    def add(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        del config
        tensors["model.layers.1.mlp.extra.weight"] = torch.ones(3)

    family = changed_family(tmp_path, add)
    with pytest.raises(UserError, match=r"it also has model\.layers\.1\.mlp\.extra\.weight, which"):
        load_model(family["base"])
    with pytest.raises(UserError, match=r"no tensor model\.layers\.1\.mlp\.extra\.weight"):
        filled(family)


def test_tied_heads_and_computed_buffers_are_no_gaps(tmp_path: Path) -> None:
    filled(changed_family(tmp_path, lambda *_: None))
    for architecture in ("gpt2", "qwen3"):
        model, _ = load_model(make_family(tmp_path / architecture, architecture)["base"])
        assert not model.training


def test_a_persistent_buffer_that_nobody_fills_is_named(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    family = make_family(tmp_path, tied=True)
    live = LlamaForCausalLM.from_pretrained(family["base"])
    live.model.layers[0].register_buffer("correction", torch.zeros(4))
    recipe = Recipe.from_dict(
        {
            "merge_method": "linear",
            "models": [{"model": family[n], "parameters": {"weight": 0.5}} for n in "ab"],
        }
    )
    parents = Parents(recipe.model_names)
    built = plan(recipe, parents.checkpoints)
    with pytest.raises(UserError, match=r"needs a tensor model\.layers\.0\.correction"):
        fill(live, built, parents)
    live._keys_to_ignore_on_load_missing = ["correction"]  # transformers' word for: I compute it
    fill(live, built, parents)


def test_check_refuses_such_models_before_anything_is_scored(
    small_study: Path, evomerge: Any, tmp_path: Path
) -> None:
    for config in tmp_path.rglob("zoo/*/config.json"):
        document = json.loads(config.read_text())
        document["tie_word_embeddings"] = False
        config.write_text(json.dumps(document))
    for command in (["check"], ["search"]):
        run = [tmp_path / "run"] if command == ["search"] else []
        said = evomerge(*command, small_study, *run)
        assert said.code == 2
        assert "lm_head.weight is missing" in said.err
    assert b"outcomes" not in (tmp_path / "run" / "journal.log").read_bytes()
