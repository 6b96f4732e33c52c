"""Anchors: what needs no search, for any number of models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.merge.build import build
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.space.inverse import point_of
from evomerge.recipe.space.space import SearchSpace
from evomerge.study.phases.anchors import Anchor, anchors
from tests.study.small_study import stub_config


def made(**sections: Any) -> dict[str, Anchor]:
    made_anchors = anchors(stub_config(**sections))
    by_name = {anchor.name: anchor for anchor in made_anchors}
    assert len(by_name) == len(made_anchors), "names are unique"
    return by_name


def test_three_models_have_these_anchors() -> None:
    result = made(models=["a", "b", "c"])
    assert [(anchor.kind, name) for name, anchor in result.items()] == [
        ("parent", "a"),
        ("parent", "b"),
        ("parent", "c"),
        ("base", "base"),
        ("anchor", "uniform average"),
        ("anchor", "task arithmetic λ=0.3"),
        ("anchor", "task arithmetic λ=0.5"),
        ("anchor", "task arithmetic λ=0.7"),
        ("anchor", "task arithmetic λ=1"),
        ("anchor", "TIES density=0.2"),
        ("anchor", "TIES density=0.5"),
        ("anchor", "DARE-TIES density=0.5"),
        ("anchor", "Model Stock"),
    ]


def test_a_pair_also_has_slerps_middle() -> None:
    recipe = made()["SLERP t=0.5"].recipe
    assert recipe.merge_method == "slerp"
    assert recipe.parameters["t"] == 0.5
    assert set(recipe.model_names) == {"one", "two"}


def test_a_single_model_has_anchors_too() -> None:
    result = made(models=["one"])
    assert "Model Stock" not in result
    assert "SLERP t=0.5" not in result
    sweep = {name: one.recipe for name, one in result.items() if name.startswith("WiSE-FT")}
    assert list(sweep) == [f"WiSE-FT α=0.{i}" for i in range(1, 10)]
    weights = [recipe.models[0].parameters["weight"] for recipe in sweep.values()]
    assert weights == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def test_the_sweep_of_a_single_model_is_wise_ft(tmp_path: Path) -> None:
    from tests.models import load, make_family

    family = make_family(tmp_path, names=("one",))
    config = stub_config(base_model=family["base"], models=[family["one"]])
    recipe = next(a.recipe for a in anchors(config) if a.name == "WiSE-FT α=0.3")
    build(Recipe.from_dict({**recipe.to_dict(), "out_dtype": "float32"}), tmp_path / "ours")
    paper = {
        "merge_method": "wise_ft",
        "base_model": family["base"],
        "models": [family["one"]],
        "parameters": {"alpha": 0.3},
        "dtype": "float32",
    }
    build(Recipe.from_dict(paper), tmp_path / "papers")
    theirs = load(tmp_path / "papers")
    for name, tensor in load(tmp_path / "ours").items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-6)


def test_a_base_among_the_models_is_one_parent() -> None:
    result = made(models=["base", "one"])
    assert [name for name, anchor in result.items() if anchor.kind in ("parent", "base")] == [
        "base",
        "one",
    ]
    assert "SLERP t=0.5" in result


def test_names_that_folders_share_are_told_apart() -> None:
    result = made(base_model="zoo/base", models=["first/model", "second/model", "third/other"])
    assert {name for name, anchor in result.items() if anchor.kind == "parent"} == {
        "first/model",
        "second/model",
        "other",
    }


def test_a_parent_is_that_model_alone_in_the_dtype_that_is_scored() -> None:
    recipe = made(output={"dtype": "float16"})["one"].recipe
    assert list(recipe.model_names) == ["one"]
    assert recipe.merge_method == "linear"
    assert recipe.models[0].parameters["weight"] == 1.0
    assert recipe.dtype == "float32"
    assert recipe.output_dtype == "float16"


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_all_anchors_are_different_recipes_that_read_back(count: int) -> None:
    result = made(models=[f"model-{i}" for i in range(count)])
    digests = {anchor.recipe.digest for anchor in result.values()}
    assert len(digests) == len(result)
    for anchor in result.values():
        assert Recipe.from_dict(anchor.recipe.to_dict()).digest == anchor.recipe.digest


def test_the_studys_seed_decides_what_dare_drops() -> None:
    one, two = (made(search={"seed": seed})["DARE-TIES density=0.5"].recipe for seed in (1, 2))
    assert one.digest != two.digest
    assert (one.seed, two.seed) == (1, 2)


@pytest.mark.parametrize(
    ("name", "space"),
    [
        ("task arithmetic λ=0.5", "task_arithmetic_by_depth"),
        ("uniform average", "global_linear"),
        ("TIES density=0.5", "ties_by_depth"),
        ("SLERP t=0.5", "slerp_pair"),
    ],
)
def test_a_search_can_start_from_the_anchor_of_its_method(name: str, space: str) -> None:
    config = stub_config(space=space)
    bound = SearchSpace.from_yaml(space).bind(
        config.base_model, config.models, config.output.dtype, config.search.seed
    )
    point = point_of(bound, made()[name].recipe)
    assert point is not None
    assert bound.fill(point).merge_method == made()[name].recipe.merge_method
