"""Points on the lines to the parents: their weights, and a loss's gradient there, in float64."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch

from evomerge.evaluate.gradient.backward import weight_gradients
from evomerge.evaluate.outcomes import ON_THE_LINE
from evomerge.merge.build import fill
from evomerge.merge.gradient.coefficients import coefficient_gradients
from evomerge.merge.gradient.segment import segment
from evomerge.merge.parents.nested import open_parents
from evomerge.merge.plan.plan import plan
from evomerge.recipe.recipe import Recipe
from tests.merge.gradient.test_coefficients import loss_of
from tests.merge.merging import load_live
from tests.models import make_family

POINTS = (*ON_THE_LINE, 1.0)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_family(tmp_path_factory.mktemp("segments"), "gpt2", names="ab", scale=0.2)


def recipe_of(family: dict[str, str], weights: tuple[float, float]) -> Recipe:
    models = [
        {"model": family[n], "parameters": {"weight": w}}
        for n, w in zip("ab", weights, strict=True)
    ]
    document = {"merge_method": "task_arithmetic", "base_model": family["base"], "models": models}
    return Recipe.from_dict({**document, "dtype": "float64", "out_dtype": "float64"})


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_a_point_is_a_mean_of_the_parent_and_the_merge_which_is_back_at_the_end(
    family: dict[str, str],
) -> None:
    recipe = recipe_of(family, (0.7, 0.4))
    parents = open_parents(list(recipe.model_names))
    built, model = plan(recipe, parents.checkpoints), load_live(family["base"], "float64")
    fill(model, built, parents)
    merge, parent = weights_of(model), load_live(family["b"], "float64").state_dict()
    with contextlib.suppress(RuntimeError), segment(model, built, parents) as moving:
        moving.move(family["b"], 0.25)
        for name, weight in weights_of(model).items():
            expected = 0.75 * parent[name] + 0.25 * merge[name]
            torch.testing.assert_close(weight, expected, rtol=0, atol=1e-12)
        raise RuntimeError("amid")
    for name, weight in weights_of(model).items():
        assert torch.equal(weight, merge[name])


def test_the_gradient_along_a_line_is_the_difference_of_the_mean_loss_on_it(
    family: dict[str, str],
) -> None:
    model = load_live(family["base"], "float64")
    parents = open_parents([family[n] for n in ("base", "a", "b")])

    def built_at(weights: tuple[float, float]) -> Any:
        built = plan(recipe_of(family, weights), parents.checkpoints)
        fill(model, built, parents)
        return built

    def mean_loss(weights: tuple[float, float]) -> float:
        total = 0.0
        with segment(model, built_at(weights), parents) as moving, torch.no_grad():
            for a in POINTS:
                moving.move(family["a"], a)
                total += float(loss_of(model)) / len(POINTS)
        return total

    at = (0.7, 0.4)
    built = built_at(at)
    with weight_gradients(model):
        with segment(model, built, parents) as moving:
            for a in POINTS:
                moving.move(family["a"], a)
                (a * loss_of(model) / len(POINTS)).backward()  # type: ignore[no-untyped-call]
        gradients = coefficient_gradients(model, built, parents)
    for i, name in enumerate("ab"):
        weight = ("weight", family[name])
        slope = sum(v for key, v in gradients.items() if (key.parameter, key.model) == weight)
        ends = []
        for step in (1e-5, -1e-5):
            first, second = at
            ends.append(mean_loss((first + step * (i == 0), second + step * (i == 1))))
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5)
