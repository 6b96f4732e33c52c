"""Slopes of tensors' coefficients by a dimension are those worked by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from evomerge.recipe.space.slopes import Coefficient, slopes
from evomerge.recipe.space.space import SearchSpace

Q = [f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(5)]
UP = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(5)]


def space_of(method: str = "dare_linear", **weight: Any) -> SearchSpace:
    models = [{"model": m, "parameters": {"weight": dict(weight)}} for m in "ab"]
    document: dict[str, Any] = {"merge_method": method, "base_model": "base", "models": models}
    document["parameters"] = {"density": "search", "lambda": {"low": 0.5, "high": 2}}
    return SearchSpace(document, tensors=dict.fromkeys([*Q, *UP], True))


def along(space: SearchSpace, j: int, tensors: list[str] = Q) -> Mapping[Coefficient, float]:
    start = tuple(dimension.start for dimension in space.dimensions)
    return slopes(space, start, tensors)[j]


def of_weights(of: Mapping[str, float], model: str = "a") -> Any:
    return pytest.approx({Coefficient("weight", t, model): v for t, v in of.items()})


def test_one_weight_moves_every_tensor_as_fast_as_itself_whatever_its_range() -> None:
    assert along(space_of(low=0, high=1), 0) == of_weights(dict.fromkeys(Q, 1.0))
    assert along(space_of(low=-1, high=3), 1) == of_weights(dict.fromkeys(Q, 1.0), "b")


def test_a_knot_moves_the_layers_about_it_and_the_knots_share_each_layer() -> None:
    space = space_of(low=0, high=1, knots=3)
    hat = [along(space, j) for j in range(3)]  # knots at layers 0, 2 and 4
    assert hat[0] == of_weights({Q[0]: 1.0, Q[1]: 0.5})
    assert hat[1] == of_weights({Q[1]: 0.5, Q[2]: 1.0, Q[3]: 0.5})
    assert hat[2] == of_weights({Q[3]: 0.5, Q[4]: 1.0})


def test_a_value_per_tensor_moves_that_tensor_alone_and_one_per_component_all_of_it() -> None:
    tensors = [*Q, *UP]
    space = space_of(low=-1, high=3, per="tensor")
    for j, tensor in enumerate(tensors):
        assert along(space, j, tensors) == of_weights({tensor: 1.0})
    document = {**space.document, "models": [*space.document["models"]]}
    part = {"low": 0, "high": 1, "per": "component"}
    document["models"] = [{"model": "a", "parameters": {"weight": part}}]
    both = [f"model.layers.0.self_attn.{q}_proj.weight" for q in "qk"]
    names = [*both, "model.norm.weight"]
    space = SearchSpace(document, tensors=dict.fromkeys(names, True))
    assert along(space, 0, names) == of_weights(dict.fromkeys(both, 1.0))
    assert along(space, 1, names) == of_weights({"model.norm.weight": 1.0})


def test_what_holds_for_all_models_has_one_coefficient_a_tensor() -> None:
    space = space_of(low=0, high=1)
    j = next(j for j, d in enumerate(space.dimensions) if d.parameter == "lambda")
    expected = {Coefficient("lambda", tensor, ""): 1.0 for tensor in Q}
    assert along(space, j) == pytest.approx(expected)


def test_what_does_not_change_the_merge_smoothly_has_no_slopes() -> None:
    space = space_of(low=0, high=1)
    density = next(j for j, d in enumerate(space.dimensions) if d.parameter == "density")
    assert along(space, density) == {}
    elected = space_of("ties", low=0, high=1)  # its weights elect signs
    assert [bool(along(elected, j)) for j in range(len(elected.dimensions))] == [
        d.parameter == "lambda" for d in elected.dimensions
    ]
    start = tuple(d.start for d in elected.dimensions)
    piecewise = slopes(elected, start, Q, lambda parameter: bool(parameter.smooth))
    assert piecewise[0] == of_weights(dict.fromkeys(Q, 1.0))
