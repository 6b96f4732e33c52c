"""The value that a tensor gets by gradients, filters, blocks and precedence, worked by hand."""

import pytest

from evomerge.checkpoint.architecture import locate, with_layers
from evomerge.core.errors import UserError
from evomerge.recipe.parameters import resolve_parameters
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.values import levels_of, position, resolve


def layer(n, rest="mlp.up_proj.weight"):
    return f"model.layers.{n}.{rest}"


def values(document, name, depth=4, merged=(0, 1)):
    recipe = Recipe.from_dict(document)
    sources = [(entry.model, name) for entry in recipe.models]
    return resolve_parameters(levels_of(recipe, name, depth), name, sources, merged)


def linear(a=1.0, b=1.0, **more):
    return {
        "merge_method": "linear",
        "models": [
            {"model": "a", "parameters": {"weight": a}},
            {"model": "b", "parameters": {"weight": b}},
        ],
        **more,
    }


def test_a_gradient_over_four_layers_is_read_as_mergekit_reads_it():
    # mergekit 0.1.5, run on four layers: [0, .5, 1] gives 0, .333, .667, 1
    weights = [values(linear(a=[0, 0.5, 1]), layer(n))["weight"][0] for n in range(4)]
    assert weights == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=1e-15)


@pytest.mark.parametrize(
    ("knots", "depth", "expected"),
    [
        ([0.2, 0.8], 4, [0.2, 0.4, 0.6, 0.8]),
        ([0.2, 0.8], 2, [0.2, 0.8]),
        ([0.2, 0.8], 1, [0.8]),  # a stack of one is read at its end, as mergekit does
        ([0.7], 3, [0.7, 0.7, 0.7]),
        ([1, 0, 1], 5, [1, 0.5, 0, 0.5, 1]),
        ([0, 1, 2, 3, 4], 3, [0, 2, 4]),
    ],
)
def test_knots_are_spread_over_the_depth(knots, depth, expected):
    weights = [values(linear(a=knots), layer(n), depth)["weight"][0] for n in range(depth)]
    assert weights == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
)
def test_tensors_outside_the_stack_take_the_first_knot(name):
    assert values(linear(a=[0.25, 1.0]), name)["weight"][0] == 0.25


def test_switches_and_words_are_taken_from_the_last_knot_passed():
    # mergekit: values[int(t * (n - 1))]; over four layers t * 2 = 0, .67, 1.33, 2
    document = linear(parameters={"normalize": [True, False, True]})
    assert [values(document, layer(n))["normalize"] for n in range(4)] == [True, True, False, True]
    assert [resolve(["inverse", True], "x", t) for t in (0.0, 0.9, 1.0)] == [
        "inverse",
        "inverse",
        True,
    ]


def test_the_first_filter_that_matches_counts_and_a_filter_is_any_part_of_the_name():
    setting = [
        {"filter": "norm", "value": 1.0},
        {"filter": "layers.1.", "value": 2.0},
        {"filter": "*", "value": [3.0, 5.0]},
        {"value": 9.0},
    ]
    weights = {
        name: values(linear(a=setting), name, depth=12)["weight"][0]
        for name in (
            layer(1, "input_layernorm.weight"),
            layer(1),
            layer(11),
            layer(0),
            "model.norm.weight",
            "lm_head.weight",
        )
    }
    assert [*weights.values()] == [1.0, 2.0, 5.0, 3.0, 1.0, 3.0]


def test_the_next_level_counts_if_no_filter_matches_a_tensor():
    document = linear(a=[{"filter": "mlp", "value": 0.1}], parameters={"weight": 0.6})
    assert values(document, layer(0))["weight"] == [0.1, 1.0]
    assert values(document, "lm_head.weight")["weight"] == [0.6, 1.0]


def test_a_required_value_that_no_level_has_is_told_with_model_and_tensor():
    document = linear(a=[{"filter": "mlp", "value": 0.1}])
    with pytest.raises(UserError, match=r"linear needs weight for a \(asked for by lm_head\.weig"):
        values(document, "lm_head.weight")
    slerp = {"merge_method": "slerp", "base_model": "a", "models": ["a", "b"]}
    with pytest.raises(UserError, match=r"slerp needs t \(asked for by lm_head\.weight\)"):
        values(slerp, "lm_head.weight", merged=(1,))


def test_defaults_stand_in_for_what_is_not_given():
    document = {
        "merge_method": "ties",
        "base_model": "base",
        "models": [{"model": m, "parameters": {"weight": 1}} for m in "ab"],
    }
    assert values(document, layer(0)) == {
        "weight": [1.0, 1.0],
        "density": [1.0, 1.0],
        "normalize": True,
        "rescale": False,
        "lambda": 1.0,
        "consensus": "sum",
        "aggregate": "mean",
        "zero_sign": "plus",
    }


BLOCKS = {
    "merge_method": "ties",
    "base_model": "base",
    "models": [
        {"model": "a", "parameters": {"weight": 0.1, "density": 0.9}},
        {"model": "b", "parameters": {"weight": 0.2}},
    ],
    "parameters": {"lambda": 0.7, "density": 0.8},
    "blocks": [
        {
            "layers": [2, 4],
            "components": ["attention"],
            "parameters": {"lambda": [1.0, 2.0], "weight": 0.4},
            "models": [{"model": "b", "parameters": {"weight": [0.5, 0.6]}}],
        },
        {"layers": [0, 3], "merge_method": "dare_ties", "parameters": {"density": 0.5}},
        {"components": ["head"], "merge_method": "linear"},
    ],
}


def block_values(name):
    parameters = values(BLOCKS, name)
    return {key: parameters[key] for key in ("weight", "density", "lambda") if key in parameters}


def test_a_model_in_a_block_comes_before_the_block_and_the_block_before_the_recipe():
    attention = "self_attn.q_proj.weight"
    assert block_values(layer(2, attention)) == {
        "weight": [0.4, 0.5],  # the block's for a, its model's for b
        "density": [0.9, 0.8],  # a's own, the recipe's
        "lambda": 1.0,
    }
    assert block_values(layer(3, attention)) == {  # gradients run from edge to edge of the block
        "weight": [0.4, 0.6],
        "density": [0.9, 0.8],
        "lambda": 2.0,
    }


def test_the_first_block_that_covers_a_tensor_has_it():
    attention = "self_attn.q_proj.weight"
    of_layer_1 = {"weight": [0.1, 0.2], "density": [0.5, 0.5], "lambda": 0.7}
    assert block_values(layer(1, attention)) == of_layer_1
    assert block_values(layer(2)) == of_layer_1
    assert block_values(layer(3))["density"] == [0.9, 0.8]  # no block: the recipe's own
    recipe = Recipe.from_dict(BLOCKS)
    methods = [
        levels_of(recipe, name, 4).method
        for name in (layer(1), layer(2, attention), layer(3), "lm_head.weight", "model.norm.weight")
    ]
    assert methods == ["dare_ties", "ties", "ties", "linear", "ties"]


def test_a_block_that_names_layers_leaves_the_tensors_outside_the_stack_alone():
    recipe = Recipe.from_dict(BLOCKS)
    assert recipe.block_of(None, "embedding") is None
    assert recipe.block_of(None, "head") is recipe.blocks[2]


def test_the_depth_of_a_layer_is_its_share_of_the_way():
    assert [position(n, 2, 6) for n in (2, 3, 4, 5)] == [0, 1 / 3, 2 / 3, 1]
    assert position(None, 0, 8) == 0
    assert position(4, 4, 5) == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.embed_tokens.weight", (None, "embedding")),
        ("model.norm.weight", (None, "norm")),
        ("lm_head.weight", (None, "head")),
        ("model.layers.11.self_attn.q_norm.weight", (11, "norm")),
        ("model.layers.3.self_attn.o_proj.weight", (3, "attention")),
        ("model.layers.3.post_attention_layernorm.weight", (3, "norm")),
        ("model.layers.3.block_sparse_moe.experts.7.w1.weight", (3, "experts")),
        ("model.layers.3.block_sparse_moe.gate.weight", (3, "router")),
        ("model.layers.3.block_sparse_moe.input_linear.weight", (3, "experts")),
        ("model.layers.3.block_sparse_moe.router.layer.weight", (3, "router")),
        ("model.layers.3.shared_mlp.input_linear.weight", (3, "shared_experts")),
        ("model.layers.3.mlp.experts.7.gate_proj.weight", (3, "experts")),
        ("model.layers.3.mlp.experts.gate_up_proj", (3, "experts")),
        ("model.layers.3.mlp.gate.weight", (3, "router")),
        ("model.layers.3.mlp.gate.e_score_correction_bias", (3, "router")),
        ("model.layers.3.mlp.router.bias", (3, "router")),
        ("model.layers.3.mlp.shared_expert.up_proj.weight", (3, "shared_experts")),
        ("model.layers.3.mlp.shared_expert_gate.weight", (3, "shared_experts")),
        ("model.layers.3.mlp.shared_experts.down_proj.weight", (3, "shared_experts")),
        ("model.layers.3.feed_forward.router.weight", (3, "router")),
        ("model.layers.3.mlp.gate_proj.weight", (3, "mlp")),
        ("language_model.model.layers.3.mlp.gate_up_proj.weight", (3, "mlp")),
        ("vision_tower.vision_model.encoder.layers.2.self_attn.q_proj.weight", (2, "vision")),
        ("visual.blocks.1.mlp.fc1.weight", (1, "vision")),
        ("model.visual.merger.mlp.0.weight", (None, "vision")),
        ("multi_modal_projector.linear_1.weight", (None, "vision")),
        ("model.connector.modality_projection.proj.weight", (None, "vision")),
        ("vision_model.encoder.layers.2.self_attn.q_proj.weight", (2, "attention")),
        ("vit.encoder.layer.0.attention.output.dense.weight", (0, "attention")),
        ("transformer.wte.weight", (None, "embedding")),
        ("wpe.weight", (None, "embedding")),
        ("transformer.h.0.ln_1.bias", (0, "norm")),
        ("h.10.attn.c_attn.weight", (10, "attention")),
        ("transformer.h.0.mlp.c_proj.weight", (0, "mlp")),
        ("transformer.ln_f.weight", (None, "norm")),
        ("gpt_neox.layers.5.attention.query_key_value.weight", (5, "attention")),
        ("gpt_neox.layers.5.post_attention_layernorm.bias", (5, "norm")),
        ("embed_out.weight", (None, "head")),
        ("something.else", (None, "other")),
    ],
)
def test_a_tensors_place_is_read_off_its_name(name, expected):
    at = locate(name)
    assert (at.layer, at.component) == expected


def test_per_layer_lists_of_a_config_follow_their_layers():
    config = {"num_hidden_layers": 3, "layer_types": ["x", "y", "z"], "eos_token_id": [1, 2, 3]}
    stacked = with_layers(config, [(config, 0), (config, 2), (config, 2), (config, 1)])
    assert stacked == {
        "num_hidden_layers": 4,
        "layer_types": ["x", "z", "z", "y"],
        "eos_token_id": [1, 2, 3],
    }
    assert config["num_hidden_layers"] == 3


def test_a_layer_from_a_deeper_model_brings_its_own_entry():
    shallow = {"num_hidden_layers": 1, "layer_types": ["x"], "max_window_layers": 1}
    deep = {"num_hidden_layers": 3, "layer_types": ["x", "y", "z"]}
    stacked = with_layers(shallow, [(shallow, 0), (deep, 2)])
    assert stacked["layer_types"] == ["x", "z"]
    assert stacked["num_hidden_layers"] == 2
