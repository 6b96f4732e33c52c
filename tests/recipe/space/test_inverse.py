"""An anchor that a space holds is found as a point of it."""

import pytest

from evomerge.recipe.recipe import Recipe
from evomerge.recipe.space.inverse import point_of
from evomerge.recipe.space.space import SearchSpace


def anchor(method, weight=None, base="base", models="ab", **more):
    weights = {"parameters": {"weight": weight}} if weight is not None else {}
    document = {"merge_method": method, "models": [{"model": m, **weights} for m in models], **more}
    document["dtype"] = "float32"
    return Recipe.from_dict({**document, **({"base_model": base} if base else {})})


def test_an_anchor_that_the_space_holds_is_found_and_merges_alike():
    space = SearchSpace.from_yaml("task_arithmetic_by_depth").bind("base", ["a", "b"])
    point = point_of(space, anchor("task_arithmetic", 0.7))
    assert point == (0.7,) * 16
    filled = space.fill(point)
    assert filled.models[0].parameters["weight"] == [0.7] * 8
    ties = SearchSpace.from_yaml("ties_by_depth").bind("base", ["a", "b"])
    wanted = anchor("ties", 1.0, parameters={"normalize": True, "lambda": 1.0, "density": 0.2})
    assert point_of(ties, wanted) == ((1.0,) * 4 + (0.2,) * 4) * 2 + (1.0,)
    pair = SearchSpace.from_yaml("slerp_pair").bind("base", ["a", "b"])
    assert point_of(pair, anchor("slerp", base="a", parameters={"t": 0.5})) == (0.5,) * 8


def test_an_anchor_is_found_through_a_choice_of_method(zoo):
    space = SearchSpace.from_yaml("mixed_methods").bind(zoo["base"], ["a", "b"])
    point = point_of(space, anchor("task_arithmetic", 0.3, base=zoo["base"]))
    assert point is not None
    recipe = space.fill(point)
    assert recipe.method_names == ["task_arithmetic"]
    assert {b.merge_method for b in recipe.blocks} == {"task_arithmetic"}
    assert {e.parameters["weight"] for b in recipe.blocks for e in b.models} == {0.3}


@pytest.mark.parametrize(
    "recipe",
    [
        anchor("linear", 1.0),
        anchor("task_arithmetic", 1.6),  # outside the range
        anchor("task_arithmetic", 0.5, parameters={"lambda": 0.9}),  # fixed at 1 in the space
        anchor("task_arithmetic", 0.5, base="c"),
        anchor("task_arithmetic", 0.5, models="ba"),
        anchor("task_arithmetic", 0.5, models="a"),
        anchor("task_arithmetic", 0.5, models="abc"),
        anchor("task_arithmetic", 0.5, out_dtype="bfloat16"),
        anchor("task_arithmetic", 0.5, blocks=[{"layers": [0, 1]}]),
        anchor("task_arithmetic", [0.5, 0.6]),
    ],
)
def test_an_anchor_that_merges_otherwise_is_not_found(recipe):
    space = SearchSpace.from_yaml("task_arithmetic_by_depth").bind("base", ["a", "b"])
    assert point_of(space, recipe) is None


def test_the_seed_counts_only_where_something_is_dropped():
    ties = SearchSpace.from_yaml("ties_by_depth").bind("base", ["a", "b"], seed=1)
    parameters = {"normalize": True, "lambda": 1.0, "density": 0.5}
    assert point_of(ties, anchor("ties", 1.0, parameters=parameters, seed=2)) is not None
    dare = SearchSpace.from_dict(
        {
            "merge_method": "dare_ties",
            "base_model": "base",
            "models": ["a", "b"],
            "parameters": {"weight": "search", "density": "search"},
            "seed": 1,
            "dtype": "float32",
        }
    )
    for seed, has_point in ((1, True), (2, False)):
        wanted = anchor("dare_ties", 0.5, parameters={"density": 0.5}, seed=seed)
        assert (point_of(dare, wanted) is not None) == has_point


def test_an_anchor_of_some_of_the_models_is_found_where_models_may_be_left_out():
    space = SearchSpace.from_yaml("which_parents").bind("base", ["a", "b"])
    point = point_of(space, anchor("task_arithmetic", 0.5, models="b"))
    assert point is not None
    assert [entry.model for entry in space.fill(point).models] == ["b"]
    assert point_of(space, anchor("task_arithmetic", 0.5)) is not None
