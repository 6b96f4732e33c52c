"""The gradient by coefficients against differences of the loss of a live model, in float64.

No method is named here but where one is the example: every smooth parameter of every registered
method is held to it.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evomerge.evaluate.gradient.backward import weight_gradients
from evomerge.merge.build import fill
from evomerge.merge.gradient.coefficients import coefficient_gradients
from evomerge.merge.parents.nested import open_parents, with_merges
from evomerge.merge.plan.plan import plan
from evomerge.methods import MethodSpec, ParameterSpec, registered
from evomerge.recipe.recipe import Recipe
from tests.adapters import make_adapter
from tests.merge.merging import load_live
from tests.models import make_family, make_model

PROMPTS = torch.tensor([[1, 7, 4, 20, 39, 5], [1, 30, 8, 8, 21, 2]])
# methods that need data: tests/calibration
SMOOTH = [(m, p) for m in registered() if not m.needs_data for p in m.parameters if p.smooth]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """GPT-2s: unlike Llama's, their norms compute in float64 where the weights are."""
    return make_family(tmp_path_factory.mktemp("gradients"), "gpt2", names="abc", scale=0.2)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A base and two adapters on it."""
    folder = tmp_path_factory.mktemp("adapters")
    base = make_model(folder / "base")
    made = [make_adapter(folder / name, base, seed=seed) for seed, name in enumerate("ab")]
    return {"base": str(base), **{path.name: str(path) for path in made}}


def models_of(method: MethodSpec, family: dict[str, str]) -> list[Any]:
    if "factors" in method.takes:
        return [{"model": family["base"], "adapter": family[n]} for n in "ab"]
    count = max(method.min_models, min(3, method.max_models or 3))
    return [family[name] for name in "abc"[:count]]


def recipe_of(
    method: MethodSpec,
    family: dict[str, str],
    moved: ParameterSpec,
    values: dict[tuple[str, int], float],
    names: list[str],
) -> Recipe:
    """Every tensor has its own value of the moved parameter; the others are where they may be."""
    models = models_of(method, family)

    def cases(i: int) -> list[dict[str, Any]]:
        # a name that is part of another one stands behind it
        longer = sorted(names, key=len, reverse=True)
        return [{"filter": name, "value": values[name, i]} for name in longer]

    per_model: list[dict[str, Any]] = [{} for _ in models]
    shared: dict[str, Any] = {}
    for parameter in method.parameters:
        if parameter.name == moved.name:
            if parameter.per_model:
                for i, of_model in enumerate(per_model):
                    of_model[parameter.name] = cases(i)
            else:
                shared[parameter.name] = cases(0)
        elif parameter.kind == "float" and (parameter.required or parameter.per_model):
            assert parameter.low is not None
            assert parameter.high is not None
            middle = parameter.low + 0.57 * (parameter.high - parameter.low)
            for of_model in per_model if parameter.per_model else [shared]:
                of_model[parameter.name] = middle
    document = {
        "merge_method": method.name,
        "base_model": family["base"],
        "models": [
            {"model": model, "parameters": settings}
            for model, settings in zip(models, per_model, strict=True)
        ],
        "parameters": shared,
        "seed": 3,
        "dtype": dtype_of(method),
        "out_dtype": dtype_of(method),
    }
    return Recipe.from_dict(document)


def dtype_of(method: MethodSpec) -> str:
    return "float32" if method.takes & {"factors", "thresholds"} else "float64"


def loss_of(model: Any) -> torch.Tensor:
    """The cross entropy of every next token."""
    logits = model(PROMPTS).logits[:, :-1]
    loss: torch.Tensor = torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), PROMPTS[:, 1:].reshape(-1)
    )
    return loss


@pytest.mark.parametrize(
    ("method", "parameter"), SMOOTH, ids=[f"{m.name}-{p.name}" for m, p in SMOOTH]
)
def test_the_gradient_along_a_direction_is_the_difference_of_the_loss(
    method: MethodSpec,
    parameter: ParameterSpec,
    family: dict[str, str],
    adapters: dict[str, str],
) -> None:
    family = adapters if "factors" in method.takes else family
    exact = dtype_of(method) == "float64"
    model = load_live(family["base"], "float64")
    names = [n for n, _ in model.named_parameters()]
    count = len(models_of(method, family)) if parameter.per_model else 1
    draw = torch.Generator().manual_seed(5)
    assert parameter.low is not None
    assert parameter.high is not None
    span = parameter.high - parameter.low
    keys = [(name, i) for name in names for i in range(count)]
    at = parameter.low + span * (0.3 + 0.4 * torch.rand(len(keys), generator=draw).double())
    direction = torch.randn(len(keys), generator=draw).double()

    def recipe(step: float) -> Recipe:
        moved = dict(zip(keys, (at + step * direction).tolist(), strict=True))
        return recipe_of(method, family, parameter, moved, names)

    def filled(step: float) -> Any:
        built = plan(recipe(step), parents.checkpoints)
        fill(model, built, parents)
        return built

    start = recipe(0.0)
    parents = with_merges(start, open_parents(list(start.model_names)))
    step = 1e-6 if exact else 1e-2
    ends = []
    for sign in (1, -1):
        filled(sign * step)
        with torch.no_grad():
            ends.append(float(loss_of(model)))
    difference = (ends[0] - ends[1]) / (2 * step)

    built = filled(0.0)
    with weight_gradients(model):
        loss_of(model).backward()  # type: ignore[no-untyped-call]
        gradients = coefficient_gradients(model, built, parents, piecewise=True)
    refs = {ref.model: i for job in built.jobs for i, ref in enumerate(job.models)}
    along = sum(
        value * float(direction[keys.index((key.tensor, refs.get(key.model, 0)))])
        for key, value in gradients.items()
        if key.parameter == parameter.name
    )
    assert abs(difference) > 1e-3  # else this test says nothing
    assert along == pytest.approx(difference, rel=2e-5 if exact else 1e-2)


def test_what_elects_signs_has_no_gradient_unless_it_is_asked_for(family: dict[str, str]) -> None:
    document = {
        "merge_method": "ties",
        "base_model": family["base"],
        "models": [{"model": family[n], "parameters": {"weight": 0.5}} for n in "ab"],
    }
    recipe = Recipe.from_dict(document)
    parents = open_parents(list(recipe.model_names))
    built = plan(recipe, parents.checkpoints)
    model = load_live(family["base"])
    asked = {}
    for piecewise in (False, True):
        fill(model, built, parents)
        with weight_gradients(model):
            loss_of(model).backward()  # type: ignore[no-untyped-call]
            gradients = coefficient_gradients(model, built, parents, piecewise=piecewise)
        asked[piecewise] = {key.parameter for key in gradients}
    assert asked == {False: {"lambda"}, True: {"lambda", "weight"}}


def test_a_coefficient_at_the_end_of_what_is_valid_is_moved_to_one_side(
    family: dict[str, str],
) -> None:
    document = {
        "merge_method": "wise_ft",
        "base_model": family["base"],
        "models": [family["a"]],
        "parameters": {"alpha": 1.0},
        "dtype": "float32",
    }
    recipe = Recipe.from_dict(document)
    parents = open_parents(list(recipe.model_names))
    built = plan(recipe, parents.checkpoints)
    model = load_live(family["base"])
    fill(model, built, parents)
    with weight_gradients(model):
        loss_of(model).backward()  # type: ignore[no-untyped-call]
        weights = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        gradients = coefficient_gradients(model, built, parents)
    base, tuned = load_live(family["base"]).state_dict(), load_live(family["a"]).state_dict()
    for key, value in gradients.items():  # θ = base + alpha (a - base), so dθ/dalpha = a - base
        expected = float((weights[key.tensor] * (tuned[key.tensor] - base[key.tensor])).sum())
        assert value == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_the_gradients_of_weights_are_forgotten(family: dict[str, str]) -> None:
    model = load_live(family["base"])
    with weight_gradients(model):
        loss_of(model).backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is not None for p in model.parameters())
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_a_frozen_tied_head_counts_once(tmp_path: Any) -> None:
    base = make_model(tmp_path / "base", tied=True)
    model = load_live(base)
    with weight_gradients(model):
        loss_of(model).backward()  # type: ignore[no-untyped-call]
        recipe = Recipe.from_dict({"merge_method": "passthrough", "models": [str(base)]})
        parents = open_parents([str(base)])
        gradients = coefficient_gradients(model, plan(recipe, parents.checkpoints), parents)
    assert "lm_head.weight" not in {key.tensor for key in gradients}
