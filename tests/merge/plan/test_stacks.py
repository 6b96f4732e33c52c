"""Layers stacked by slices: models that run, of the layers that were asked for."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.core.errors import UserError
from evomerge.merge.build import build
from evomerge.recipe.recipe import Recipe
from tests.merge.merging import load_live, logits, recipe_of
from tests.models import ARCHITECTURES, load, make_family, make_model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layers_are_stacked_into_a_model_that_runs(architecture, tmp_path):
    family = make_family(tmp_path, architecture, layers=3)
    document = {
        "merge_method": "passthrough",
        "base_model": family["base"],
        "slices": [
            {"sources": [{"model": family["a"], "layer_range": [0, 2]}]},
            {"sources": [{"model": family["b"], "layer_range": [0, 3]}]},
        ],
    }
    build(Recipe.from_dict(document), tmp_path / "stack")
    out, a, b = (load(folder) for folder in (tmp_path / "stack", family["a"], family["b"]))
    origin = [(a, 0), (a, 1), (b, 0), (b, 1), (b, 2)]
    for name, tensor in out.items():
        number = next((part for part in name.split(".") if part.isdecimal()), None)
        if number is None:  # what comes before the layers is of the first slice
            first = "embed" in name or "wte" in name or "wpe" in name
            assert torch.equal(tensor, (a if first else b)[name]), name
        else:
            model, layer = origin[int(number)]
            assert torch.equal(tensor, model[name.replace(f".{number}.", f".{layer}.")]), name
    live = load_live(tmp_path / "stack")
    assert live.config.num_hidden_layers == 5
    assert logits(live).shape == (1, 6, 40)
    if architecture == "qwen3":
        assert live.config.layer_types == ["full_attention"] * 5


def test_a_stack_goes_beyond_the_depth_of_its_donor(tmp_path):
    shallow = make_family(tmp_path / "shallow", "qwen3", names="", layers=1)
    deep = make_model(tmp_path / "deep", "qwen3", seed=5, layers=3)
    document = {
        "merge_method": "passthrough",
        "base_model": shallow["base"],
        "slices": [
            {"sources": [{"model": shallow["base"], "layer_range": [0, 1]}]},
            {"sources": [{"model": str(deep), "layer_range": [1, 3]}]},
        ],
    }
    build(Recipe.from_dict(document), tmp_path / "out")
    assert load_live(tmp_path / "out").config.layer_types == ["full_attention"] * 3


def test_a_layer_that_a_model_does_not_have_is_told(llama, tmp_path):
    document = {
        "merge_method": "passthrough",
        "slices": [{"sources": [{"model": llama["a"], "layer_range": [2, 4]}]}],
    }
    with pytest.raises(
        UserError, match=r"it has no tensor model\.layers\.3\.\S+, which the recipe"
    ):
        build(Recipe.from_dict(document), tmp_path / "out")
    blocks = [{"layers": [0, 4], "parameters": {"lambda": 0.5}}]
    with pytest.raises(
        UserError, match=r"blocks\[0\]\.layers: it ends at layer 4, but .* has 3 lay"
    ):
        build(recipe_of(llama, blocks=blocks), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_whole_numbers_are_copied_even_where_layers_repeat(llama, tmp_path):
    folder = tmp_path / "counted"
    shutil.copytree(llama["a"], folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.calls"] = torch.tensor([3, 4])
    tensors["model.layers.1.mlp.calls"] = torch.tensor([5, 6])
    tensors["model.layers.2.mlp.calls"] = torch.tensor([7, 8])
    save_file(tensors, folder / "model.safetensors")
    part = {"sources": [{"model": str(folder), "layer_range": [0, 2]}]}
    document = {"merge_method": "passthrough", "slices": [part, part], "out_dtype": "bfloat16"}
    build(Recipe.from_dict(document), tmp_path / "out")
    out = load(tmp_path / "out")
    calls = [out[f"model.layers.{n}.mlp.calls"].tolist() for n in range(4)]
    assert calls == [[3, 4], [5, 6], [3, 4], [5, 6]]
    tensors["model.layers.0.mlp.calls"] += 1
    shutil.copytree(folder, tmp_path / "other")
    save_file(tensors, tmp_path / "other" / "model.safetensors")
    linear = {
        "merge_method": "linear",
        "models": [str(folder), str(tmp_path / "other")],
        "parameters": {"weight": 1.0},
    }
    with pytest.raises(
        UserError, match=r"layers\.0\.mlp\.calls: an integer tensor cannot be merged"
    ):
        build(Recipe.from_dict(linear), tmp_path / "mixed")
    assert not (tmp_path / "mixed").exists()
