"""Each dimension says which part of the recipe it belongs to; nobody reads that off its name."""

from dataclasses import asdict

from evomerge.recipe.space.space import SearchSpace

PARTS = ("parameter", "model", "block", "layers", "gradient", "knot", "group")
PLAIN = dict.fromkeys(PARTS)


def parts(document):
    """The parts of every dimension by its name."""
    space = SearchSpace.from_dict(document)
    return {d.name: {key: asdict(d)[key] for key in PARTS} for d in space.dimensions}


def test_knots_of_one_hole_share_a_gradient_and_a_group():
    models = [{"model": f"/zoo/{m}", "parameters": {"weight": {"knots": 2}}} for m in "ab"]
    by_name = parts({"merge_method": "linear", "models": models})
    assert list(by_name) == [f"models[{m}].weight[{k}]" for m in "ab" for k in (0, 1)]
    assert by_name["models[b].weight[1]"] == {
        **PLAIN,
        "parameter": "weight",
        "model": "b",
        "gradient": "models[b].weight",
        "knot": 1,
        "group": "models[b].weight",
    }


def test_a_block_gives_its_layers_and_the_group_leaves_them_out():
    blocks = [
        {"layers": [0, 2], "components": ["attention"], "parameters": {"t": "search"}},
        {"layers": [2, 4], "parameters": {"t": {"knots": 2}}},
        {"components": ["mlp"], "merge_method": {"choice": ["slerp"]}, "parameters": {"t": 0.5}},
    ]
    models = [{"model": "a"}, {"model": "b"}]
    by_name = parts(
        {"merge_method": "slerp", "base_model": "a", "models": models, "blocks": blocks}
    )
    assert by_name == {
        "blocks[0:2,attention].t": PLAIN
        | {"parameter": "t", "block": "0:2,attention", "layers": (0, 2), "group": "[attention].t"},
        **{
            f"blocks[2:4].t[{k}]": PLAIN
            | {"parameter": "t", "block": "2:4", "layers": (2, 4), "group": "t"}
            | {"gradient": "blocks[2:4].t", "knot": k}
            for k in (0, 1)
        },
        "blocks[mlp].merge_method": PLAIN
        | {"parameter": "merge_method", "block": "mlp", "group": "[mlp].merge_method"},
    }


def test_a_value_of_a_list_is_a_knot_and_a_case_of_a_filter_is_none():
    cases = [{"filter": "self_attn", "value": "search"}, {"value": "search"}]
    models = [
        {"model": "a", "parameters": {"weight": ["search", 0.5, "search"]}},
        {"model": "b", "parameters": {"weight": cases}},
    ]
    by_name = parts({"merge_method": "linear", "models": models})
    knots = {name: (part["gradient"], part["knot"]) for name, part in by_name.items()}
    assert knots == {
        "models[a].weight[0]": ("models[a].weight", 0),
        "models[a].weight[2]": ("models[a].weight", 2),
        "models[b].weight[self_attn]": (None, None),
        "models[b].weight[1]": (None, None),
    }


def test_gradients_of_the_same_name_are_kept_apart():
    blocks = [{"layers": [0, 2], "parameters": {"t": {"knots": 2}}}] * 2
    models = [{"model": "a"}, {"model": "b"}]
    by_name = parts(
        {"merge_method": "slerp", "base_model": "a", "models": models, "blocks": blocks}
    )
    assert {part["gradient"] for part in by_name.values()} == {"blocks[0:2].t", "blocks[0:2].t~2"}
