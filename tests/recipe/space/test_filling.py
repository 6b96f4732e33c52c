"""Holes become dimensions, and a point fills them; what cannot be filled is refused."""

import copy

import pytest

from evomerge import methods
from evomerge.core.errors import UserError
from evomerge.recipe.space.space import SearchSpace


def space_of(**more):
    document = {
        "merge_method": "ties",
        "base_model": "base",
        "models": [
            {"model": "a", "parameters": {"weight": "search", "density": "search"}},
            {"model": "b", "parameters": {"weight": 0.5}},
        ],
    }
    return {**document, **more}


def test_search_takes_the_range_that_the_method_declares():
    space = SearchSpace.from_dict(space_of())
    for dimension in space.dimensions:
        name = dimension.name.removeprefix("models[a].")
        declared = methods.get("ties").parameter(name)
        assert (dimension.low, dimension.high) == (declared.low, declared.high)
    assert [d.name for d in space.dimensions] == ["models[a].weight", "models[a].density"]


def test_knots_become_a_gradient_and_a_filter_keeps_its_hole():
    document = space_of(
        parameters={
            "lambda": {"low": 0.5, "high": 2.0, "knots": 3, "initial": 1.0},
            "density": [{"filter": "mlp", "value": {"low": 0.2, "high": 0.6}}, {"value": 1.0}],
            "normalize": "search",
        }
    )
    space = SearchSpace.from_dict(document)
    assert [d.name for d in space.dimensions][2:] == [
        "lambda[0]", "lambda[1]", "lambda[2]", "density[mlp]", "normalize"
    ]  # fmt: skip
    recipe = space.fill((0.1, 0.2, 0.5, 0.6, 0.7, 0.3, False))
    assert recipe.parameters == {
        "lambda": [0.5, 0.6, 0.7],
        "density": [{"filter": "mlp", "value": 0.3}, {"value": 1.0}],
        "normalize": False,
    }
    assert space.dimensions[2].start == 1.0
    assert space.document == document


def test_a_logarithmic_range_starts_at_its_geometric_middle():
    hole = {"low": 0.01, "high": 1.0, "log": True}
    (dimension, *_) = SearchSpace.from_dict(space_of(parameters={"lambda": hole})).dimensions[2:]
    assert dimension.log
    assert dimension.start == pytest.approx(0.1)


def test_models_of_one_name_have_dimensions_of_their_own():
    document = {
        "merge_method": "linear",
        "models": [{"model": f"zoo{i}/m", "parameters": {"weight": "search"}} for i in (1, 2)],
    }
    names = [d.name for d in SearchSpace.from_dict(document).dimensions]
    assert names == ["models[m].weight", "models[m].weight~2"]


WRONG = [
    (
        {"lambda": {"low": 2, "high": 1}},
        r"lambda: `low <= high` must hold, but got \(low=2, high=1",
    ),
    ({"lambda": {"low": float("nan")}}, "expected low to be a number but got nan"),
    ({"lambda": {"low": 0, "high": float("inf")}}, "expected high to be a number but got inf"),
    ({"lambda": {"low": 0, "high": 10**400}}, "expected high to be a number"),
    ({"lambda": {"low": False, "high": 1}}, "expected low to be a number but got False"),
    (
        {"lambda": {"low": 0, "high": 1, "knots": 0}},
        "expected knots to be a whole number >= 1, got",
    ),
    ({"lambda": {"low": 0, "high": 1, "knots": 2.0}}, "expected knots to be a whole number >= 1"),
    ({"lambda": {"low": 0, "high": 1, "log": True}}, "`low > 0` must hold for a logarithmic range"),
    ({"lambda": {"low": 1, "high": 2, "log": "yes"}}, "expected log to be true or false"),
    ({"lambda": {"low": 0, "high": 1, "initial": 3}}, r"initial 3 lies outside \[0, 1\]"),
    ({"lambda": {"low": 0, "hihg": 1}}, "unknown key 'hihg': did you mean 'high'"),
    ({"density": {"low": 0, "high": 1.5}}, r"expected \[0, 1.5\] to lie inside \[0.0, 1.0\]"),
    ({"density": {"low": -0.1, "high": 1}}, r"expected \[-0.1, 1\] to lie inside"),
    ({"density": {"choice": [0.5, 1.5]}}, r"density must be a number in \[0, 1\], but got 1.5"),
    ({"density": {"choice": []}}, "expected a list of choices, got"),
    ({"density": {"choice": 3}}, "expected a list of choices, got 3"),
    ({"density": {"choice": [0.5], "initial": 0.7}}, r"initial 0.7 is not among \[0.5\]"),
    ({"densty": "search"}, "unknown parameter of ties 'densty': did you mean 'density'"),
    ({"normalize": {"low": 0, "high": 1}}, "it is true or false, not in a range: write search, or"),
    ({"normalize": {"choice": [True, "maybe"]}}, "normalize must be true or false"),
]


@pytest.mark.parametrize(("parameters", "message"), WRONG)
def test_a_hole_that_cannot_be_filled_is_refused_by_its_name(parameters, message):
    with pytest.raises(UserError, match=message) as caught:
        SearchSpace.from_dict(space_of(parameters=parameters))
    assert str(caught.value).startswith("space: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"base_model": "search"}, "base_model: only parameters and merge_method can be searched"),
        ({"seed": {"low": 0, "high": 9}}, "seed: only parameters and merge_method can be searched"),
        (
            {"merge_method": "search"},
            r"merge_method: expected \{choice: \[...\]\} but got 'search'",
        ),
        ({"merge_method": {"choice": ["ties", "tise"]}}, "unknown merge method 'tise'"),
        (
            {"merge_method": {"choice": ["ties", "slerp"]}},
            "slerp: expected exactly 1 model besides",
        ),
        (
            {"blocks": [{"layers": [0, 2], "parameters": {"t": "search"}}]},
            "unknown parameter of tie",
        ),
    ],
)
def test_holes_stand_only_where_a_search_makes_sense(more, message):
    with pytest.raises(UserError, match=message):
        SearchSpace.from_dict(space_of(**more))


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ((0.5,), r"expected 2 values \(one per dimension\), but got 1"),
        ((0.5, 1.5), r"models\[a\]\.density: expected \[0\.0, 1\.0\], got 1\.5"),
        ((float("nan"), 0.5), r"models\[a\]\.weight: expected \[0\.0, 1\.0\], got nan"),
        (("x", 0.5), r"models\[a\]\.weight: expected"),
    ],
)
def test_a_point_outside_the_space_is_refused(point, message):
    with pytest.raises(UserError, match=message):
        SearchSpace.from_dict(space_of()).fill(point)


CHOICE = {
    "merge_method": {"choice": ["task_arithmetic", "dare_ties"]},
    "base_model": "base",
    "models": [{"model": "a", "parameters": {"weight": 0.5}}],
    "parameters": {"density": {"low": 0.2, "high": 0.9}, "rescale": True},
    "blocks": [
        {
            "layers": [0, 2],
            "merge_method": {"choice": ["ties", "linear"]},
            "parameters": {"density": 0.4, "normalize": True},
        },
        {"layers": [2, 3], "merge_method": "linear", "parameters": {"normalize": True}},
    ],
}


def test_parameters_that_the_chosen_method_does_not_have_leave_no_trace():
    space = SearchSpace.from_dict(CHOICE)
    assert [d.name for d in space.dimensions] == [
        "merge_method", "density", "blocks[0:2].merge_method"
    ]  # fmt: skip
    plain = space.fill(("task_arithmetic", 0.5, "linear"))
    assert "density" not in plain.parameters
    assert "density" not in plain.blocks[0].parameters
    assert plain.digest == space.fill(("task_arithmetic", 0.7, "linear")).digest
    dare = space.fill(("dare_ties", 0.5, "ties"))
    assert dare.parameters == {"density": 0.5, "rescale": True}
    assert dare.blocks[0].parameters == {"density": 0.4, "normalize": True}
    # ties, in its block, may read the recipe's density: it stays though the top has no such thing
    mixed = space.fill(("task_arithmetic", 0.5, "ties"))
    assert mixed.parameters["density"] == 0.5


def test_a_stray_parameter_stays_an_error_if_the_method_is_fixed():
    document = copy.deepcopy(CHOICE)
    document["blocks"][1]["parameters"]["density"] = 0.5
    with pytest.raises(
        UserError, match=r"blocks\[1\]\.parameters: unknown parameter of linear 'de"
    ):
        SearchSpace.from_dict(document)
    with pytest.raises(UserError, match="unknown parameter of linear 'density'"):
        SearchSpace.from_dict(
            {"merge_method": "linear", "models": ["a"], "parameters": {"density": 0.5, "weight": 1}}
        )
