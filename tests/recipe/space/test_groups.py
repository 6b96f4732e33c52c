"""Holes with `per`: a dimension for each tensor, or for each component of each layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evomerge.checkpoint.architecture import locate
from evomerge.checkpoint.opening import open_model
from evomerge.core.errors import UserError
from evomerge.merge.plan.plan import plan
from evomerge.recipe.mergekit.from_mergekit import from_mergekit
from evomerge.recipe.mergekit.to_mergekit import to_mergekit
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.space.dimension import Dimension
from evomerge.recipe.space.inverse import point_of
from evomerge.recipe.space.space import SearchSpace
from tests.models import make_family

NAMES = [
    "norm.weight",
    "layers.0.norm.weight",
    "layers.0.mlp.up.weight",
    "layers.0.mlp.down.weight",
]


def space_of(per: str, tensors: dict[str, bool] | None = None, **weight: Any) -> SearchSpace:
    hole = {"low": 0, "high": 2, "initial": 0.5, "per": per, **weight}
    return SearchSpace(
        {
            "merge_method": "task_arithmetic",
            "base_model": "base",
            "models": [{"model": "a", "parameters": {"weight": hole}}],
        },
        tensors=tensors or dict.fromkeys(NAMES, True),
    )


def resolved(space: SearchSpace, point: Any) -> list[dict[str, Any]]:
    setting: list[dict[str, Any]] = space.fill(point).models[0].parameters["weight"]
    return setting


def test_every_tensor_has_a_dimension_of_its_name() -> None:
    space = space_of("tensor")
    assert [d.name for d in space.dimensions] == [f"models[a].weight[{name}]" for name in NAMES]
    assert {(d.low, d.high, d.start) for d in space.dimensions} == {(0.0, 2.0, 0.5)}
    assert [d.layers for d in space.dimensions] == [None, (0, 1), (0, 1), (0, 1)]
    assert space.dimensions[2].group == "models[a].weight[mlp.up.weight]"


def test_a_component_of_a_layer_shares_one_dimension() -> None:
    space = space_of("component")
    labels = ["norm", "0,norm", "0,mlp"]
    assert [d.name for d in space.dimensions] == [f"models[a].weight[{n}]" for n in labels]
    values = {case["filter"]: case["value"] for case in resolved(space, (0.1, 0.2, 0.3))}
    assert values == dict(zip(NAMES, (0.1, 0.2, 0.3, 0.3), strict=True))


def test_a_name_that_is_part_of_another_does_not_take_its_value() -> None:
    space = space_of("tensor")
    recipe = space.fill((0.1, 0.2, 0.3, 0.4))
    from evomerge.recipe.values import lookup

    levels = [(recipe.models[0].parameters, 0.0)]
    assert [lookup(levels, "weight", name) for name in NAMES] == [0.1, 0.2, 0.3, 0.4]


def test_tensors_of_whole_numbers_get_the_first_value_and_no_dimension() -> None:
    space = space_of("tensor", {"mlp.weight": True, "mask": False})
    assert [d.name for d in space.dimensions] == ["models[a].weight[mlp.weight]"]
    assert resolved(space, (0.7,))[-1] == {"value": 0.7}


def test_a_block_has_dimensions_for_what_it_covers() -> None:
    hole = {"low": 0, "high": 2, "per": "tensor"}
    space = SearchSpace(
        {
            "merge_method": "task_arithmetic",
            "base_model": "base",
            "models": [{"model": "a", "parameters": {"weight": 1.0}}],
            "blocks": [
                {
                    "layers": [0, 1],
                    "components": ["mlp"],
                    "models": [{"model": "a", "parameters": {"weight": hole}}],
                }
            ],
        },
        tensors=dict.fromkeys(NAMES, True),
    )
    assert [d.name for d in space.dimensions] == [
        f"blocks[0:1,mlp].models[a].weight[{name}]" for name in NAMES[2:]
    ]


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        ({"per": "layer"}, "layer"),
        ({"per": "tensor", "knots": 3}, "knots or per"),
        ({"per": ["tensor"]}, "tensor"),
    ],
)
def test_a_wrong_per_is_refused(weight: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        space_of(**{"per": "tensor", **weight})


def test_per_beside_a_filter_is_refused() -> None:
    cases = [{"filter": "mlp", "value": {"low": 0, "high": 1, "per": "tensor"}}, {"value": 1.0}]
    document = {
        "merge_method": "linear",
        "models": [{"model": "a", "parameters": {"weight": cases}}],
    }
    with pytest.raises(UserError, match="no filter beside it"):
        SearchSpace(document, tensors={"mlp": True})


@pytest.mark.parametrize("name", ["task_arithmetic_by_tensor", "task_arithmetic_by_component"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_shipped_spaces_bind_to_models_hold_anchors_and_export(
    tmp_path: Path, name: str, architecture: str
) -> None:
    family = make_family(tmp_path, architecture, tied=True)
    models = [family["a"], family["b"]]
    template = SearchSpace.from_yaml(name)
    assert template.unbound
    space = template.bind(family["base"], models, "float32")
    checkpoints = {model: open_model(model) for model in family.values()}
    jobs = plan(space.fill([d.start for d in space.dimensions]), checkpoints).jobs
    if name.endswith("tensor"):
        assert len(space.dimensions) == len(models) * len(jobs)
    anchor = Recipe.from_dict(
        {
            "merge_method": "task_arithmetic",
            "base_model": family["base"],
            "models": [{"model": m, "parameters": {"weight": 0.3}} for m in models],
            "out_dtype": "float32",
        }
    )
    point = point_of(space, anchor)
    assert point == (0.3,) * len(space.dimensions)
    # every tensor gets the value of its own dimension, in our plan and by way of mergekit's format
    values = [0.001 * i for i in range(len(space.dimensions))]
    recipe = space.fill(values)
    (document,) = to_mergekit(recipe, [job.name for job in jobs])
    again = from_mergekit([document.content], tmp_path).recipe
    for made in (recipe, again):
        for job in plan(made, checkpoints).jobs:
            for i, weight in enumerate(job.parameters["weight"]):
                j = next(
                    j
                    for j, d in enumerate(space.dimensions)
                    if d.model == Path(models[i]).name and covers(d, job.name)
                )
                assert weight == pytest.approx(values[j])


def covers(dimension: Dimension, tensor: str) -> bool:
    """Return whether a dimension of a shipped space is the one of a tensor, read off its name."""
    label = dimension.name.partition("weight[")[2].removesuffix("]")
    at = locate(tensor)
    layer = "" if at.layer is None else f"{at.layer},"
    return label in (tensor, f"{layer}{at.component}")


def test_a_thousand_dimensions_are_filled_at_once() -> None:
    import time

    tensors = {f"model.layers.{i}.mlp.{j}.weight": True for i in range(40) for j in range(25)}
    space = space_of("tensor", tensors)
    assert len(space.dimensions) == 1000
    began = time.process_time()
    space.fill([0.5] * 1000)
    assert time.process_time() - began < 1
