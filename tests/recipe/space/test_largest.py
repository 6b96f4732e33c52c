"""The largest candidate of a space whose method may add parameters."""

import pytest

from evomerge.recipe.space.space import SearchSpace


def space(method: str, **parameters: object) -> SearchSpace:
    document = {"merge_method": method, "base_model": "base", "models": ["a", "b"]}
    return SearchSpace.from_dict({**document, "parameters": parameters})


def test_it_has_what_grows_at_its_end_and_the_rest_at_its_start() -> None:
    parameters = {
        "rank": {"low": 4, "high": 32, "initial": 8},
        "gate_rank": {"low": 1, "high": 4, "initial": 2},
        "rest": {"choice": ["base", "average"]},
    }
    largest = space("smile", **parameters).largest
    assert largest is not None
    assert largest.parameters == {"rank": 32, "gate_rank": 2, "rest": "base"}
    chosen = space("moe", router="random", experts={"choice": [2, 8, 4]}).largest
    assert chosen is not None
    assert chosen.parameters["experts"] == 8


@pytest.mark.parametrize("method", ["smile", "task_arithmetic"])
def test_a_space_in_which_nothing_grows_has_none(method: str) -> None:
    assert space(method).largest is None
