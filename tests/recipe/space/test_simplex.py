"""Weights on the simplex: shares worked by hand, their inverse, and holes that make no simplex."""

from __future__ import annotations

import math
from typing import Any

import pytest

from evomerge.core.errors import UserError
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.space.inverse import point_of
from evomerge.recipe.space.simplex import from_shares, pulled_back, shares
from evomerge.recipe.space.space import SearchSpace

TENSORS = ["model.layers.0.mlp.up_proj.weight", "model.norm.weight"]


def soup(names: str = "ab", method: str = "linear", **hole: Any) -> SearchSpace:
    weight = {"simplex": True, **hole}
    models = [{"model": name, "parameters": {"weight": weight}} for name in names]
    document: dict[str, Any] = {"merge_method": method, "models": models, "base_model": "base"}
    return SearchSpace(document, tensors=dict.fromkeys(TENSORS, True))


def weights_of(recipe: Recipe) -> list[Any]:
    return [entry.parameters["weight"] for entry in recipe.models]


def test_the_start_is_the_uniform_soup() -> None:
    space = soup("abc")
    start = tuple(d.start for d in space.dimensions)
    assert start == (0.0, 0.0, 0.0)
    assert weights_of(space.fill(start)) == pytest.approx([1 / 3] * 3)


def test_shares_are_the_softmax_over_the_models() -> None:
    point = (0.0, math.log(2.0), math.log(5.0))
    assert weights_of(soup("abc").fill(point)) == pytest.approx([0.125, 0.25, 0.625])


def test_each_tensor_and_each_knot_has_a_softmax_to_itself() -> None:
    space = soup(per="tensor")
    assert [d.name for d in space.dimensions] == [
        f"models[{m}].weight[{t}]" for m in "ab" for t in TENSORS
    ]
    a, b = weights_of(space.fill((0.0, 1.0, math.log(3.0), 1.0)))
    assert [case["value"] for case in a] == pytest.approx([0.25, 0.5])
    assert [case["value"] for case in b] == pytest.approx([0.75, 0.5])
    a, b = weights_of(soup(knots=2).fill((0.0, 2.0, 0.0, 2.0)))
    assert (a, b) == ([0.5, 0.5], [0.5, 0.5])


def test_the_uniform_average_is_a_point_of_it_and_a_parent_is_none() -> None:
    space = soup("abc", per="tensor")
    models = [{"model": m, "parameters": {"weight": 1.0}} for m in "abc"]
    document = {"merge_method": "linear", "models": models, "parameters": {"normalize": True}}
    assert point_of(space, Recipe.from_dict(document)) == pytest.approx([0.0] * 6)
    models[0]["parameters"] = {"weight": 2.0}
    point = point_of(space, Recipe.from_dict(document))
    assert point is not None
    first = [case["value"] for case in weights_of(space.fill(point))[0]]
    assert first == pytest.approx([0.5, 0.5])
    models[0]["parameters"] = {"weight": 0.0}
    assert point_of(space, Recipe.from_dict(document)) is None
    summed = {**document, "merge_method": "task_arithmetic", "base_model": "base"}
    summed["parameters"] = {}
    assert point_of(soup("abc", "task_arithmetic"), Recipe.from_dict(summed)) is None


def test_shares_and_their_logarithms_are_inverse() -> None:
    values = [0.3, 9.0, 0.6, 0.1]
    point = from_shares([[0, 2, 3]], values)
    assert point is not None
    assert shares([[0, 2, 3]], point) == pytest.approx(values)


def test_the_derivative_is_the_difference_of_the_shares() -> None:
    simplices, point, by_share = [[0, 1, 3]], (0.3, 7.0, -1.0, 2.0), [1.0, -2.0, 0.5, 4.0]
    simplices = [[0, 2, 3]]
    exact = pulled_back(simplices, point, by_share)
    for j in range(4):
        ends = []
        for sign in (1, -1):
            moved = [x + sign * 1e-6 * (i == j) for i, x in enumerate(point)]
            values = shares(simplices, moved)
            ends.append(sum(g * float(v) for g, v in zip(by_share, values, strict=True)))
        assert exact[j] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-8)
    assert sum(exact[j] for j in (0, 2, 3)) == pytest.approx(0.0)  # a common step does nothing


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"names": "a"}, "expected two models or more"),
        ({"simplex": 1}, "expected true or false, but got 1"),
        ({"log": True, "low": 1, "high": 2}, "expected no log beside it"),
    ],
)
def test_a_simplex_that_is_none_is_refused_in_a_line(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        soup(**change)
    assert "\n" not in str(caught.value)


def test_other_parameters_and_models_that_may_be_left_out_are_refused() -> None:
    models: list[Any] = [{"model": m, "parameters": {"weight": {"simplex": True}}} for m in "ab"]
    document = {"merge_method": "linear", "models": models}
    models[0]["include"] = "search"
    with pytest.raises(UserError, match="expected every model to take part"):
        SearchSpace(document)
    shared = {"merge_method": "task_arithmetic", "base_model": "c", "models": ["a", "b"]}
    with pytest.raises(UserError, match="expected the weight of a model"):
        SearchSpace({**shared, "parameters": {"lambda": {"simplex": True}}})
    del models[0]["include"]
    models[1]["parameters"] = {"weight": {"simplex": True, "knots": 3}}
    with pytest.raises(UserError, match="have the same `knots` or `per`"):
        SearchSpace(document)
