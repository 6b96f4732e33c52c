"""HyperCloning: a model k times as wide has the logits of the narrow one."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from evomerge.core.errors import UserError
from evomerge.merge.build import build, fill, live_digest
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import plan
from evomerge.recipe.recipe import Recipe
from tests.models import load, make_family, make_model

TOKENS = torch.arange(1, 25).reshape(2, 12)


@pytest.fixture(scope="module", params=["llama", "tied", "qwen3"])
def model(request, tmp_path_factory):
    kind = "llama" if request.param == "tied" else request.param
    folder = tmp_path_factory.mktemp(request.param) / "model"
    return str(make_model(folder, kind, tied=request.param == "tied"))


def widened(model, **parameters):
    document = {"merge_method": "widen", "models": [model], "parameters": parameters}
    return Recipe.from_dict({**document, "dtype": "float64", "out_dtype": "float64"})


def loaded(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


@pytest.mark.parametrize("parameters", [{"factor": 2}, {"factor": 3}, {"factor": 2, "noise": 0.3}])
def test_its_logits_are_those_of_the_narrow_model(model, parameters, tmp_path):
    """Samragh 2024: whatever noise tells the copies apart."""
    build(widened(model, **parameters), tmp_path / "out")
    wide, narrow = loaded(tmp_path / "out"), loaded(model)
    assert wide.config.hidden_size == parameters["factor"] * narrow.config.hidden_size
    missed = (logits(wide) - logits(narrow)).abs().max()
    assert missed < 2e-6 * logits(narrow).abs().max()  # transformers' norms compute in float32
    weight = wide.model.layers[0].mlp.down_proj.weight
    alike = torch.equal(weight[: len(weight) // 2], weight[len(weight) // 2 :])
    assert alike == (parameters == {"factor": 2})


def test_a_linear_layer_is_tiled_and_halved_and_a_norm_repeated(model, tmp_path):
    build(widened(model, factor=2), tmp_path / "out")
    wide, narrow = load(tmp_path / "out"), load(model)
    up, norm = "model.layers.1.mlp.up_proj.weight", "model.norm.weight"
    half = narrow[up].double() / 2
    assert torch.equal(wide[up], torch.cat([torch.cat([half, half], 1)] * 2))
    assert torch.equal(wide[norm], torch.cat([narrow[norm].double()] * 2))
    assert not json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"]


def test_by_a_factor_of_one_it_is_the_model_itself(model, tmp_path):
    build(widened(model, factor=1), tmp_path / "out")
    made, there = load(tmp_path / "out"), load(model)
    assert made.keys() == there.keys()
    assert all(torch.equal(made[name], there[name].double()) for name in there)


def test_a_live_model_of_that_width_is_filled_with_the_exports_weights(model, tmp_path):
    recipe = widened(model, factor=2, noise=0.1)
    parents = Parents(recipe.model_names)
    built = plan(recipe, parents.checkpoints)
    digest = build(recipe, tmp_path / "out")
    live = loaded(tmp_path / "out")
    for parameter in live.parameters():
        parameter.data.zero_()
    fill(live, built, parents)
    assert live_digest(live, built, parents) == digest


def test_a_merge_is_widened_as_one_model_is(tmp_path):
    family = make_family(tmp_path)
    merged = {"merge_method": "linear", "models": [family["a"], family["b"]]}
    merged["parameters"] = {"weight": 0.5}
    document = {"merge_method": "widen", "models": [{"model": merged}], "out_dtype": "float32"}
    build(Recipe.from_dict(document), tmp_path / "wide")
    build(Recipe.from_dict({**merged, "out_dtype": "float32"}), tmp_path / "narrow")
    difference = logits(loaded(tmp_path / "wide")) - logits(loaded(tmp_path / "narrow"))
    assert difference.abs().max() < 1e-5


def test_fused_projections_are_refused_since_the_logits_would_be_others(tmp_path):
    model = str(make_model(tmp_path / "model", "gpt2"))
    recipe = widened(model, factor=2)
    with pytest.raises(UserError, match="a gpt2 cannot be widened: its logits would be others"):
        plan(recipe, Parents([model]).checkpoints)


def test_one_model_is_widened_at_a_time(tmp_path):
    family = make_family(tmp_path)
    with pytest.raises(UserError, match="widen"):
        Recipe.from_dict({"merge_method": "widen", "models": [family["a"], family["b"]]})
