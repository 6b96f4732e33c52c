"""Models of layers in another order compute what hooks on their layers would."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from evomerge.core.errors import UserError
from evomerge.merge.build import build
from evomerge.recipe.mergekit.to_mergekit import to_mergekit
from evomerge.recipe.recipe import Recipe
from tests.models import load, make_family

TOKENS = torch.arange(1, 25).reshape(2, 12)
BLOCKS = {"llama": "model.layers", "gpt2": "transformer.h"}
WRITERS = {"llama": ("o_proj", "down_proj"), "gpt2": ("c_proj",)}


@pytest.fixture(scope="module", params=list(BLOCKS))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def family(kind, tmp_path_factory):
    return make_family(tmp_path_factory.mktemp(kind), kind, layers=3, scale=0.3)


def recipe_of(*entries, **keys):
    return Recipe.from_dict({"path": list(entries), "out_dtype": "float32", **keys})


def loaded(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


def test_a_path_through_one_model_is_that_model(family, tmp_path):
    build(recipe_of({"model": family["a"]}), tmp_path / "out")
    made, there = load(tmp_path / "out"), load(family["a"])
    assert made.keys() == there.keys()
    assert all(torch.equal(made[name], there[name]) for name in there)
    ours, theirs = (
        json.loads((Path(folder) / "config.json").read_text())
        for folder in (tmp_path / "out", family["a"])
    )
    assert ours == theirs


def test_hops_in_the_weights_are_hooks_that_scale_the_input_of_layers(family, kind, tmp_path):
    """But for the epsilon of the norms, which the scale makes smaller or larger by comparison."""
    hops = [1.7, 0.6, 1.0, 2.5]
    slots = [("a", 0), ("b", 2), ("b", 1), ("a", 2)]
    entries = [
        {"model": family[model], "layers": [layer, layer + 1], "hop": hop}
        for (model, layer), hop in zip(slots, hops, strict=True)
    ]
    build(recipe_of(*entries), tmp_path / "scaled")
    build(recipe_of(*[{**entry, "hop": 1.0} for entry in entries]), tmp_path / "plain")
    hooked, plain = loaded(tmp_path / "plain"), loaded(tmp_path / "plain")
    for layer, hop in zip(hooked.get_submodule(BLOCKS[kind]), hops, strict=True):
        layer.register_forward_pre_hook(lambda _, given, hop=hop: (given[0] * hop, *given[1:]))
    effect = (logits(hooked) - logits(plain)).abs().max()
    missed = (logits(hooked) - logits(loaded(tmp_path / "scaled"))).abs().max()
    assert missed < 1e-3 * effect


def test_a_slot_whose_layer_writes_nothing_changes_no_logit(family, kind, tmp_path):
    zeros = [{"filter": name, "value": 0.0} for name in WRITERS[kind]]
    front, back = ({"model": family["a"], "layer_range": r} for r in ([0, 2], [2, 3]))
    silent = {
        "model": family["b"],
        "layer_range": [1, 2],
        "parameters": {"scale": [*zeros, {"value": 1.0}]},
    }
    document = {"merge_method": "passthrough", "out_dtype": "float32"}
    document["slices"] = [{"sources": [source]} for source in (front, silent, back)]
    build(Recipe.from_dict(document), tmp_path / "out")
    assert torch.equal(logits(loaded(tmp_path / "out")), logits(loaded(family["a"])))


def test_layers_that_are_repeated_have_caches_of_their_own(family, tmp_path):
    entries = {"models": [family["a"], family["b"]], "times": 2, "trim": 1, "hop": 1.3}
    build(recipe_of(entries, base_model=family["base"]), tmp_path / "out")
    model = loaded(tmp_path / "out")
    about = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    cached, anew = (model.generate(TOKENS, use_cache=use, **about) for use in (True, False))
    assert torch.equal(cached, anew)
    assert model.config.num_hidden_layers == 8


def test_a_path_is_slices_with_filtered_scales_for_mergekit(family, kind):
    recipe = recipe_of({"model": family["a"], "hop": [1, 1, 2]}, base_model=family["base"])
    (document,) = to_mergekit(recipe, list(load(family["a"])))
    plain, scaled = (part["sources"][0] for part in document.content["slices"])
    assert plain == {"model": family["a"], "layer_range": [0, 2]}
    *cases, otherwise = scaled["parameters"]["scale"]
    assert otherwise == {"value": 1.0}
    assert cases == [{"value": 0.5, "filter": f"{name}."} for name in WRITERS[kind]]


def test_depth_up_scaling_takes_the_middle_of_the_model_twice(tmp_path):
    """Kim 2023: of 32 layers, 24 and 24, so that 16 are there twice."""
    model = make_family(tmp_path, layers=32, names=())["base"]
    recipe = recipe_of({"model": model, "times": 2, "trim": 8})
    assert [part.sources[0].layer_range for part in recipe.slices] == [(0, 24), (8, 32)]


def test_a_model_whose_blocks_normalise_their_output_takes_no_hops(tmp_path):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 40}
    Gemma2ForCausalLM(Gemma2Config(**sizes, **heads)).save_pretrained(tmp_path / "model")
    model = str(tmp_path / "model")
    build(recipe_of({"model": model, "times": 2}), tmp_path / "out")
    with pytest.raises(UserError, match="gemma2 cannot scale the input of a layer: its blocks"):
        recipe_of({"model": model, "hop": 1.1})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"layers": [1, 4]}, "`0 <= first < end <= 3`, the layers of"),
        ({"times": 3, "trim": 2}, "nothing is left of one of 3 times"),
        ({"times": 0}, "`times >= 1`"),
        ({"include": [True, False]}, "expected 3 values, one for each slot, got 2"),
        ({"hop": 0.0}, "expected a number from 0.0001 to 10000"),
        ({"models": ["x"]}, "either model or models"),
        ({"layer": [0, 1]}, "did you mean 'layers'"),
    ],
)
def test_an_impossible_path_is_refused_by_its_key(entry, message, family):
    model = family["base"]
    with pytest.raises(UserError, match=message):
        recipe_of({"model": model, **entry})


def test_a_path_is_neither_merged_nor_joined_by_other_layers(family):
    model = family["base"]
    with pytest.raises(UserError, match="a path or models, but got both"):
        recipe_of({"model": model}, models=[model])
    with pytest.raises(UserError, match="expected merge_method: passthrough, but got linear"):
        recipe_of({"model": model}, merge_method="linear")
