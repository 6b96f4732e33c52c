"""AdaMerging, AdaMerging++ and the learned soup as settings, held to their papers' identities.

Losses are those of a live GPT-2 in float64, so that differences of the loss are exact.
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
from evomerge.recipe.space.space import SearchSpace
from evomerge.study.phases.gradients import Chain
from evomerge.study.workers.requests import Gradients
from tests.merge.merging import load_live
from tests.models import make_family

PROMPTS = torch.tensor([[1, 7, 4, 20, 39, 5], [1, 30, 8, 8, 21, 2]])
BETWEEN_0_AND_1 = {"low": 0, "high": 1, "initial": 0.3}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_family(tmp_path_factory.mktemp("settings"), "gpt2", names="abc", scale=0.2)


class Live:
    """A space over the family with its loss: the entropy of every next token (AdaMerging's)."""

    def __init__(self, document: dict[str, Any], family: dict[str, str]) -> None:
        exact = {"dtype": "float64", "out_dtype": "float64"}
        space = SearchSpace.from_dict({**document, **exact})
        self.space = space.bind(family["base"], [family[n] for n in "abc"])
        self.start = tuple(d.start for d in self.space.dimensions)
        self.chain = Chain(self.space, self.start, family["base"], piecewise=False)
        self.model = load_live(family["base"], "float64")
        self._parents = open_parents([family[n] for n in ("base", *"abc")])

    def built(self, point: Any) -> Any:
        recipe = self.space.fill(point)
        parents = with_merges(recipe, self._parents)
        made = plan(recipe, parents.checkpoints)
        fill(self.model, made, parents)
        return made, parents

    def weights(self, point: Any) -> dict[str, torch.Tensor]:
        self.built(point)
        return {n: p.detach().clone() for n, p in self.model.named_parameters()}

    def loss(self) -> torch.Tensor:
        logs = self.model(PROMPTS).logits.log_softmax(-1)
        return -(logs.exp() * logs).sum(-1).mean()

    def value(self, point: Any) -> float:
        self.built(point)
        with torch.no_grad():
            return float(self.loss())

    def gradient(self, point: Any) -> list[float]:
        made, parents = self.built(point)
        with weight_gradients(self.model):
            self.loss().backward()  # type: ignore[no-untyped-call]
            by_coefficient = coefficient_gradients(self.model, made, parents)
        rows = [(*key, value) for key, value in by_coefficient.items()]
        return self.chain(Gradients(rows=[], coefficients=rows), point)

    def difference(self, point: Any, along: Any, step: float = 1e-5) -> float:
        ends = [
            self.value(tuple(x + s * step * a for x, a in zip(point, along, strict=True)))
            for s in (1, -1)
        ]
        return (ends[0] - ends[1]) / (2 * step)


def task_vectors(**hole: Any) -> dict[str, Any]:
    weight = {**BETWEEN_0_AND_1, **hole}
    models = [{"model": "*", "parameters": {"weight": weight}}]
    return {"merge_method": "task_arithmetic", "models": models}


def trimmed(density: float, family: dict[str, str]) -> dict[str, Any]:
    merges = {
        name: {
            "merge_method": "ties",
            "base_model": family["base"],
            "models": [{"model": family[name], "parameters": {"weight": 1, "density": density}}],
            "dtype": "float64",
            "out_dtype": "float64",
        }
        for name in "abc"
    }
    models = [{"model": name, "parameters": {"weight": BETWEEN_0_AND_1}} for name in "abc"]
    outer = {"merge_method": "task_arithmetic", "base_model": family["base"]}
    return {**outer, "models": models, "merges": merges}


def test_task_wise_adamerging_is_the_layer_wise_one_with_equal_values(
    family: dict[str, str],
) -> None:
    task_wise, layer_wise = Live(task_vectors(), family), Live(task_vectors(per="tensor"), family)
    assert task_wise.start == (0.3, 0.3, 0.3)
    values = (0.2, 0.5, 0.9)
    count = len(layer_wise.start) // 3
    tied = tuple(v for v in values for _ in range(count))
    for name, weight in task_wise.weights(values).items():
        assert torch.equal(weight, layer_wise.weights(tied)[name])
    by_layer = layer_wise.gradient(tied)
    sums = [sum(by_layer[k * count : (k + 1) * count]) for k in range(3)]
    assert task_wise.gradient(values) == pytest.approx(sums, rel=1e-9)
    assert max(map(abs, sums)) > 1e-3


def test_adamerging_plus_plus_is_adamerging_of_trimmed_task_vectors(family: dict[str, str]) -> None:
    plain, whole = Live(task_vectors(), family), Live(trimmed(1.0, family), family)
    point = (0.2, 0.5, 0.9)
    for name, weight in plain.weights(point).items():  # nothing is trimmed at density 1
        torch.testing.assert_close(weight, whole.weights(point)[name], rtol=0, atol=1e-12)
    fifth = Live(trimmed(0.2, family), family)
    deltas = fifth.weights((1.0, 0.0, 0.0))
    base, tuned = plain.weights((0.0, 0.0, 0.0)), plain.weights((1.0, 0.0, 0.0))
    for name, base_weight in base.items():
        change, full = deltas[name] - base_weight, tuned[name] - base_weight
        kept = change != 0
        assert int(kept.sum()) <= max(1, round(0.2 * full.numel()))
        torch.testing.assert_close(change[kept], full[kept], rtol=0, atol=1e-12)
        if bool(kept.any()):
            assert full[kept].abs().min() >= full[~kept].abs().max()
    assert fifth.chain.others == []  # the trim is fixed: every weight is smooth
    along = (1.0, -0.5, 0.25)
    slope = sum(g * a for g, a in zip(fifth.gradient(point), along, strict=True))
    assert slope == pytest.approx(fifth.difference(point, along), rel=1e-5)


@pytest.mark.parametrize("hole", [{}, {"per": "component"}, {"knots": 2}], ids=str)
def test_the_gradient_of_a_learned_soup_is_the_difference_of_the_loss(
    family: dict[str, str], hole: dict[str, Any]
) -> None:
    models = [{"model": "*", "parameters": {"weight": {"simplex": True, **hole}}}]
    soup = Live({"merge_method": "linear", "models": models}, family)
    draw = torch.Generator().manual_seed(1)
    n = len(soup.start)
    point = tuple(torch.randn(n, generator=draw).double().tolist())
    along = torch.randn(n, generator=draw).double().tolist()
    slope = sum(g * a for g, a in zip(soup.gradient(point), along, strict=True))
    assert abs(slope) > 1e-3
    assert slope == pytest.approx(soup.difference(point, along), rel=1e-5)


def test_a_learned_soup_begins_at_the_average_of_the_models(family: dict[str, str]) -> None:
    models = [{"model": "*", "parameters": {"weight": {"simplex": True, "per": "tensor"}}}]
    soup = Live({"merge_method": "linear", "models": models}, family)
    parents = [load_live(family[n], "float64").state_dict() for n in "abc"]
    for name, weight in soup.weights(soup.start).items():
        mean = torch.stack([parent[name] for parent in parents]).mean(0)
        torch.testing.assert_close(weight, mean, rtol=0, atol=1e-12)
