"""Quantized parents: refused by name, or written in float by their scales."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from evomerge.checkpoint.opening import open_model
from evomerge.core.errors import UserError
from evomerge.merge.build import build
from evomerge.merge.output.dequantize import dequantize
from evomerge.recipe.recipe import Recipe
from tests.models import load, make_model

BLOCK = 8


def per_tensor(weight):
    scale = weight.abs().max() / 448
    return (weight / scale).to(torch.float8_e4m3fn), scale.reshape(()), "weight_scale"


def per_row(weight):
    scale = weight.abs().amax(1, keepdim=True) / 127
    return (weight / scale).round().to(torch.int8), scale, "weight_scale"


def by_blocks(weight):
    rows, columns = (-(-n // BLOCK) for n in weight.shape)
    scale = torch.ones(rows, columns)
    quantized = torch.empty_like(weight, dtype=torch.float8_e4m3fn)
    for i in range(rows):
        for j in range(columns):
            part = (slice(BLOCK * i, BLOCK * (i + 1)), slice(BLOCK * j, BLOCK * (j + 1)))
            scale[i, j] = weight[part].abs().max() / 448
            quantized[part] = (weight[part] / scale[i, j]).to(torch.float8_e4m3fn)
    return quantized, scale, "weight_scale_inv"


def bitsandbytes(weight):
    largest = weight.abs().amax(1)
    return (weight / largest[:, None] * 127).round().to(torch.int8), largest, "SCB"


SCHEMES = {
    "per tensor": (per_tensor, {"quant_method": "fbgemm_fp8"}),
    "per row": (per_row, {"quant_method": "compressed-tensors"}),
    "by blocks": (by_blocks, {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]}),
    "bitsandbytes": (bitsandbytes, {"quant_method": "bitsandbytes", "load_in_8bit": True}),
}


def quantized(folder, scheme, *, told=True):
    """A model whose projections are quantized, and those projections as they were."""
    function, settings = SCHEMES[scheme]
    make_model(folder)
    tensors = load_file(folder / "model.safetensors")
    before = {name: t.clone() for name, t in tensors.items() if "proj.weight" in name}
    for name, tensor in before.items():
        tensors[name], scale, ending = function(tensor)
        tensors[name.replace("weight", ending)] = scale.contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    if told:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    return before


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_quantized_weights_are_refused_with_the_command_that_helps(scheme, told, tmp_path):
    quantized(tmp_path / "q", scheme, told=told)
    with pytest.raises(UserError, match=r"weights are quantized .*: evomerge dequantize"):
        open_model(tmp_path / "q")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_scales_give_back_the_weights_up_to_the_quantizers_rounding(scheme, tmp_path):
    before = quantized(tmp_path / "q", scheme)
    count = dequantize(tmp_path / "q", tmp_path / "out", "float32")
    after = load(tmp_path / "out")
    assert count == len(before)
    assert set(after) == set(load(make_model(tmp_path / "plain")))
    for name, tensor in before.items():
        error = (after[name] - tensor).abs().max() / tensor.abs().max()
        assert 0 < error < 0.04, name  # half a step of three bits of mantissa, or of 127
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert getattr(model.config, "quantization_config", None) is None
    recipe = {"merge_method": "passthrough", "models": [{"model": str(tmp_path / "out")}]}
    build(Recipe.from_dict(recipe), tmp_path / "merged")


def test_blocks_are_dequantized_as_transformers_does_it(tmp_path):
    quantized(tmp_path / "q", "by blocks")
    dequantize(tmp_path / "q", tmp_path / "out", "float32")
    from transformers import FineGrainedFP8Config

    settings = FineGrainedFP8Config(weight_block_size=(BLOCK, BLOCK), dequantize=True)
    reference = AutoModelForCausalLM.from_pretrained(
        tmp_path / "q", quantization_config=settings, dtype=torch.float32
    ).state_dict()
    for name, tensor in load(tmp_path / "out").items():
        torch.testing.assert_close(tensor, reference[name].float())


@pytest.mark.parametrize(
    ("method", "word"),
    [("gptq", "GPTQModel"), ("awq", "made from"), ("mxfp4", "Mxfp4Config"), ("hqq", "made from")],
)
def test_packed_weights_are_refused_with_their_methods_remedy(method, word, tmp_path):
    make_model(tmp_path / "q")
    file = tmp_path / "q" / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.0.self_attn.q_proj"
    tensors.pop(f"{name}.weight")
    tensors[f"{name}.qweight"] = torch.zeros(2, 16, dtype=torch.int32)
    save_file(tensors, file, metadata={"format": "pt"})
    config = json.loads((tmp_path / "q" / "config.json").read_text())
    settings = {"quantization_config": {"quant_method": method}}
    (tmp_path / "q" / "config.json").write_text(json.dumps({**config, **settings}))
    with pytest.raises(UserError, match=rf"quantized \({method}: .*qweight is I32.*{word}"):
        open_model(tmp_path / "q")
    with pytest.raises(UserError, match="qweight is I32"):
        dequantize(tmp_path / "q", tmp_path / "out")


def test_a_quantization_config_over_floats_is_not_passed_on(tmp_path):
    make_model(tmp_path / "stale")
    config = json.loads((tmp_path / "stale" / "config.json").read_text())
    settings = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (tmp_path / "stale" / "config.json").write_text(json.dumps({**config, **settings}))
    recipe = {"merge_method": "passthrough", "models": [{"model": str(tmp_path / "stale")}]}
    build(Recipe.from_dict(recipe), tmp_path / "out")
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_a_model_in_float_has_nothing_to_dequantize(tmp_path):
    with pytest.raises(UserError, match="none is quantized"):
        dequantize(make_model(tmp_path / "m"), tmp_path / "out")
