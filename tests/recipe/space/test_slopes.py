"""How fast tensors' weights move with a dimension, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from evomerge.recipe.space.slopes import weight_slopes
from evomerge.recipe.space.space import SearchSpace

Q = [f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(5)]


def space_of(**weight: Any) -> SearchSpace:
    models = [{"model": m, "parameters": {"weight": dict(weight)}} for m in "ab"]
    document = {"merge_method": "ties", "base_model": "base", "models": models}
    return SearchSpace.from_dict({**document, "parameters": {"density": "search"}})


def slopes(space: SearchSpace, j: int) -> dict[str, float]:
    start = tuple(dimension.start for dimension in space.dimensions)
    return weight_slopes(space, start, j, Q, len(Q))


def test_one_weight_moves_every_tensor_as_fast_as_itself_whatever_its_range() -> None:
    assert slopes(space_of(low=0, high=1), 0) == pytest.approx(dict.fromkeys(Q, 1.0))
    assert slopes(space_of(low=-1, high=3), 1) == pytest.approx(dict.fromkeys(Q, 1.0))


def test_a_knot_moves_the_layers_about_it_and_the_knots_share_each_layer() -> None:
    space = space_of(low=0, high=1, knots=3)
    hat = [slopes(space, j) for j in range(3)]  # knots at layers 0, 2 and 4
    assert hat[0] == pytest.approx({Q[0]: 1.0, Q[1]: 0.5})
    assert hat[1] == pytest.approx({Q[1]: 0.5, Q[2]: 1.0, Q[3]: 0.5})
    assert hat[2] == pytest.approx({Q[3]: 0.5, Q[4]: 1.0})


def test_a_dimension_that_is_no_weight_of_one_model_has_no_slopes() -> None:
    space = space_of(low=0, high=1)
    density = next(j for j, d in enumerate(space.dimensions) if d.parameter == "density")
    assert slopes(space, density) == {}
