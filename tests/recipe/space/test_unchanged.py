"""Spaces of adapters have no dimension for tensors that no adapter changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import evomerge
from evomerge import methods
from evomerge.core.errors import UserError
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.space.inverse import point_of
from evomerge.recipe.space.space import SearchSpace
from evomerge.recipe.space.unchanged import unchanged
from tests.adapters import make_adapter
from tests.models import load, make_family


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("adapters")
    made = make_family(folder, "llama")
    base = made["base"]
    one = make_adapter(folder / "one", base, target_modules=["q_proj", "v_proj"])
    two = make_adapter(folder / "two", base, seed=2, target_modules=["q_proj", "o_proj"])
    saves = make_adapter(folder / "saves", base, seed=3, modules_to_save=["lm_head"])
    named = {"one": one, "two": two, "saves": saves}
    return {"base": base, "whole": made["a"], **{n: f"{base}+{path}" for n, path in named.items()}}


def bound(family: dict[str, str], *models: str, per: str = "tensor", **keys: Any) -> SearchSpace:
    hole = {"low": -1, "high": 3, "initial": 0.5, "per": per}
    entries = [{"model": "*", "parameters": {"weight": hole}}]
    document = {"merge_method": "task_arithmetic", "models": entries, "dtype": "float32", **keys}
    listed = [family[name] for name in models]
    return SearchSpace.from_dict(document).bind(family["base"], listed, "float32")


def test_only_what_an_adapter_changes_has_a_dimension(family: dict[str, str]) -> None:
    space = bound(family, "one", "two")
    named = {d.name.split("[")[-1].rstrip("]") for d in space.dimensions}
    assert named == {
        f"model.layers.{i}.self_attn.{p}_proj.weight" for i in (0, 1) for p in ("q", "v", "o")
    }
    tensors = load(family["base"])
    assert (len(space.dimensions), space.left_out) == (2 * 6, 2 * (len(tensors) - 6))
    by_component = bound(family, "one", "two", per="component")
    assert [d.layers for d in by_component.dimensions] == 2 * [(0, 1), (1, 2)]
    saves = bound(family, "one", "saves")
    assert any("lm_head" in d.name for d in saves.dimensions)


def test_the_merge_is_that_of_all_dimensions_and_simple_recipes_lie_in_the_space(
    family: dict[str, str], tmp_path: Path
) -> None:
    space = bound(family, "one", "two")
    point = tuple(0.1 * k - 0.2 for k in range(len(space.dimensions)))
    evomerge.build(space.fill(point), tmp_path / "out")
    merged, base = load(tmp_path / "out"), load(family["base"])
    values = dict(zip((d.name for d in space.dimensions), point, strict=True))
    deltas = {n: {k: v - base[k] for k, v in _built(family[n], tmp_path / n).items()}
              for n in ("one", "two")}  # fmt: skip
    for name, tensor in merged.items():
        wanted = base[name].clone()
        for model in ("one", "two"):
            of = [
                v for d, v in values.items() if name in d and f"{model}]" in d.split(".weight")[0]
            ]
            wanted += (of[0] if of else 0.0) * deltas[model][name]
        torch.testing.assert_close(tensor, wanted, rtol=1e-5, atol=1e-5)
    models = [
        {"model": family[n], "parameters": {"weight": 0.3}} for n in ("one", "two")
    ]  # as an anchor
    anchor = {"merge_method": "task_arithmetic", "base_model": family["base"], "models": models}
    recipe = Recipe.from_dict({**anchor, "dtype": "float32", "out_dtype": "float32"})
    assert point_of(space, recipe) == (0.3,) * len(space.dimensions)


def _built(model: str, out: Path) -> dict[str, torch.Tensor]:
    evomerge.build(
        Recipe.from_dict({"merge_method": "passthrough", "models": [model], "dtype": "float32"}),
        out,
    )
    return load(out)


def test_nothing_is_left_out_where_it_might_have_an_effect(family: dict[str, str]) -> None:
    tensors = len(load(family["base"]))
    assert bound(family, "one", "whole").left_out == 0
    linear = bound(family, "one", "two", merge_method="linear")
    assert (linear.left_out, len(linear.dimensions)) == (0, 2 * tensors)
    document = {"merge_method": "curve", "base_model": family["base"], "models": [family["one"]]}
    assert unchanged(document, family["base"]) == set()
    document = {**document, "merge_method": {"choice": ["ties", "dare_linear"]}}
    same = unchanged(document, family["base"])
    assert len(same) == tensors - 4
    assert unchanged({**document, "tokenizer_source": "union"}, family["base"]) == set()
    assert unchanged({**document, "base_model": family["whole"]}, family["base"]) == set()


def test_a_block_that_no_adapter_changes_is_refused(family: dict[str, str]) -> None:
    mlp = {"components": ["mlp"], "models": [{"model": "*", "parameters": {"weight": {"per": "tensor"}}}]}  # fmt: skip # noqa: E501
    with pytest.raises(UserError, match="none that its adapters change: leave the block out"):
        bound(family, "one", "two", blocks=[mlp])


def test_methods_that_add_deltas_are_known_to_give_the_base() -> None:
    from evomerge.recipe.space.unchanged import _gives_base

    known = {spec.name for spec in methods.registered() if _gives_base(spec.name)}
    assert {"task_arithmetic", "ties", "dare_linear", "dare_ties", "breadcrumbs"} <= known
    assert not known & {"linear", "curve", "passthrough", "regmean", "concrete"}
