"""A worker that answers `gradient`: what it says when there is no room, or nothing finite."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.evaluate.model import load_model
from evomerge.evaluate.scorer import Scorer
from evomerge.recipe.recipe import Recipe
from evomerge.study.config import StudyConfig
from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.requests import (
    Evaluate,
    Export,
    Exported,
    Failure,
    Gradient,
    Gradients,
    Scores,
)
from tests.adapters import make_adapter

ITEMS = {"small_choice": [0, 1], "small_write": [2, 3, 4]}
WEIGHTS = {"small_choice": 0.25, "small_write": 1 / 6}


@pytest.fixture(scope="module")
def evaluator(small_study: Path) -> Evaluator:
    return Evaluator(StudyConfig.from_dict(json.loads(small_study.read_text()), small_study.parent))


def recipe_of(evaluator: Evaluator, weight: float = 0.5) -> dict[str, Any]:
    config = evaluator.config
    models = [{"model": m, "parameters": {"weight": weight}} for m in config.models]
    document = {"merge_method": "task_arithmetic", "base_model": config.base_model}
    return Recipe.from_dict({**document, "models": models, "dtype": "float32"}).to_dict()


def test_the_answer_has_a_derivative_for_each_tensor_and_model_and_the_scores(
    evaluator: Evaluator,
) -> None:
    recipe = recipe_of(evaluator)
    answer = evaluator.handle(Gradient(recipe, ITEMS, "answers", WEIGHTS))
    assert isinstance(answer, Gradients)
    weights = {(t, m) for p, t, m, _ in answer.coefficients if p == "weight"}
    tensors = {name for name, _ in weights}
    assert weights == {(t, m) for t in tensors for m in evaluator.config.models}
    assert {"model.embed_tokens.weight", "model.norm.weight"} <= tensors
    assert "lm_head.weight" not in tensors  # tied
    plain = evaluator.handle(Evaluate(recipe, [ITEMS], "smooth"))
    assert isinstance(plain, Scores)
    assert [row[:2] for row in answer.rows] == [row[:2] for row in plain.rows]


def test_a_small_step_against_the_gradient_lowers_the_loss(evaluator: Evaluator) -> None:
    losses = []
    weight = 0.5
    for _ in range(3):
        answer = evaluator.handle(Gradient(recipe_of(evaluator, weight), ITEMS, "answers", WEIGHTS))
        assert isinstance(answer, Gradients)
        losses.append(answer.loss)
        slope = sum(value for p, _, _, value in answer.coefficients if p == "weight")
        weight -= 0.01 if slope > 0 else -0.01
    assert losses[0] > losses[1] > losses[2]


def test_where_one_item_does_not_fit_the_study_stops_with_the_remedy(evaluator: Evaluator) -> None:
    def full(_: Any, __: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    hook = evaluator.scoring.models.home.model.register_forward_pre_hook(full)
    try:
        answer = evaluator.handle(Gradient(recipe_of(evaluator), ITEMS, "answers", WEIGHTS))
    finally:
        hook.remove()
    assert isinstance(answer, Failure)
    assert answer.kind == "study"
    assert "not even of one item" in answer.message
    assert "search.optimizer: catcma" in answer.message
    assert "\n" not in answer.message
    assert all(p.grad is None for p in evaluator.scoring.models.home.model.parameters())


def test_logits_that_are_not_finite_fail_the_trial(evaluator: Evaluator) -> None:
    answer = evaluator.handle(Gradient(recipe_of(evaluator, 1e30), ITEMS, "answers", WEIGHTS))
    assert isinstance(answer, Failure)
    assert answer.kind == "non-finite"


def test_a_gradient_leaves_later_scores_as_they_were(evaluator: Evaluator) -> None:
    recipe = recipe_of(evaluator)
    before = evaluator.handle(Evaluate(recipe, [ITEMS], "metric"))
    evaluator.handle(Gradient(recipe, ITEMS, "margin", WEIGHTS))
    after = evaluator.handle(Evaluate(recipe, [ITEMS], "metric"))
    assert isinstance(before, Scores)
    assert isinstance(after, Scores)
    assert before.rows == after.rows


@pytest.fixture(scope="module")
def of_adapters(evaluator: Evaluator, tmp_path_factory: pytest.TempPathFactory) -> Evaluator:
    """The same tasks, and two adapters in place of the models; one more turned into a model."""
    folder = tmp_path_factory.mktemp("adapters")
    base = evaluator.config.base_model
    adapters = [
        make_adapter(folder / str(seed), base, seed=seed, target_modules="all-linear", r=seed + 1)
        for seed in (1, 2)
    ]
    config = replace(evaluator.config, models=tuple(f"{base}+{one}" for one in adapters))
    return Evaluator(config)


@pytest.mark.parametrize("loss", ["answers", "margin", "entropy"])
def test_the_gradient_of_adapters_is_that_of_whole_weights_without_one(
    of_adapters: Evaluator, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Factors against the product's central difference and every weight's gradient."""
    request = Gradient(recipe_of(of_adapters), ITEMS, loss, WEIGHTS)
    model = of_adapters.scoring.models.home.model

    def gradients(by_factors: bool) -> dict[tuple[str, str, str], float]:
        answer = of_adapters.handle(request)
        assert isinstance(answer, Gradients)
        assert answer.by_factors == by_factors
        return {(p, t, m): value for p, t, m, value in answer.coefficients}

    with monkeypatch.context() as patch:
        patch.setattr("evomerge.study.workers.gradient.weight_gradients", None)  # not called
        cheap = gradients(True)
    monkeypatch.setattr("evomerge.study.workers.gradient.low_rank_changes", lambda *_: None)
    whole = gradients(False)
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    assert cheap.keys() == whole.keys()
    largest = max(map(abs, whole.values()))
    moved = [key for key, value in whole.items() if abs(value) > 1e-3 * largest]
    assert len({tensor for _, tensor, _ in moved}) > 4
    for key, value in whole.items():
        assert cheap[key] == pytest.approx(value, rel=2e-2, abs=1e-3 * largest), key


def test_a_merge_that_adapters_do_not_move_alone_takes_the_weights_gradient(
    of_adapters: Evaluator,
) -> None:
    recipe = recipe_of(of_adapters)
    for changed in ({"parameters": {"normalize": True}}, {"merge_method": "linear"}):
        document = {**recipe, **changed}
        answer = of_adapters.handle(Gradient(document, ITEMS, "answers", WEIGHTS))
        assert isinstance(answer, Gradients)
        embedding = "model.embed_tokens.weight"
        values = [v for _, tensor, _, v in answer.coefficients if tensor == embedding]
        assert any(values) == (document["merge_method"] == "linear")


def test_scores_in_float32_are_those_of_the_rounded_weights_that_are_exported(
    evaluator: Evaluator, tmp_path: Path
) -> None:
    config = evaluator.config
    output, evaluate = replace(config.output, dtype="bfloat16"), config.evaluate
    finer = Evaluator(replace(config, output=output, evaluate=replace(evaluate, dtype="float32")))
    recipe = {**recipe_of(evaluator), "out_dtype": "bfloat16"}
    scored = finer.handle(Evaluate(recipe, [ITEMS], "smooth", digest=True))
    assert isinstance(scored, Scores)
    assert finer.scoring.models.home.model.dtype == torch.float32
    exported = finer.handle(Export(recipe, str(tmp_path / "out")))
    assert isinstance(exported, Exported)
    assert scored.weights_digest == exported.weights_digest
    model, tokenizer = load_model(tmp_path / "out", torch.float32)
    rows = Scorer(model, tokenizer, finer.scoring.harness, 64).score(ITEMS, "smooth")
    assert [row.as_written() for row in rows] == scored.rows


def test_the_loss_along_lines_is_the_mean_over_five_points_and_its_gradient_their_difference(
    evaluator: Evaluator,
) -> None:
    one, two = evaluator.config.models
    lines = {"small_choice": one, "small_write": two}

    def at(weight: float) -> Any:
        recipe = recipe_of(evaluator, weight)
        return evaluator.handle(Gradient(recipe, ITEMS, "line", WEIGHTS, lines=lines))

    answer = at(0.5)
    assert isinstance(answer, Gradients)
    assert answer.passes == 5
    total = 0.0
    for a in (0.2, 0.4, 0.6, 0.8, 1.0):  # by recipes: base + a merge + (1 - a) the parent's delta
        for task, parent in lines.items():
            weights = {m: a * 0.5 + (1 - a) * (m == parent) for m in evaluator.config.models}
            models = [{"model": m, "parameters": {"weight": w}} for m, w in weights.items()]
            recipe = {**recipe_of(evaluator), "models": models}
            items, alone = {task: ITEMS[task]}, {task: WEIGHTS[task]}
            point = evaluator.handle(Gradient(recipe, items, "answers", alone))
            assert isinstance(point, Gradients)
            total += point.loss / 5
    assert answer.loss == pytest.approx(total, rel=1e-5)
    ends = [at(0.5 + step).loss for step in (1e-2, -1e-2)]
    slope = sum(value for p, _, _, value in answer.coefficients if p == "weight")
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=2e-2)
    plain = evaluator.handle(Evaluate(recipe_of(evaluator), [ITEMS], "smooth"))
    assert isinstance(plain, Scores)  # the merge is in the live model again
    assert [row[:2] for row in answer.rows] == [row[:2] for row in plain.rows]
    for ours, theirs in zip(answer.rows, plain.rows, strict=True):
        assert ours[3] == pytest.approx(theirs[3], abs=2e-4)


def test_when_memory_runs_out_on_a_line_all_its_points_are_repeated(evaluator: Evaluator) -> None:
    lines = dict.fromkeys(ITEMS, evaluator.config.models[0])
    request = Gradient(recipe_of(evaluator), ITEMS, "line", WEIGHTS, lines=lines)
    evaluator.scoring.scorer()._backward.rows = 32  # another test may have halved them
    expected = evaluator.handle(request)
    rows: list[int] = []

    def full_at_the_third_point(_: Any, __: Any, arguments: dict[str, Any]) -> None:
        rows.append(len(arguments["input_ids"]))
        if len(rows) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    live = evaluator.scoring.models.home.model
    hook = live.register_forward_pre_hook(full_at_the_third_point, with_kwargs=True)
    try:
        answer = evaluator.handle(request)
    finally:
        hook.remove()
    assert isinstance(expected, Gradients)
    assert isinstance(answer, Gradients)
    assert rows[:3] == rows[:1] * 3
    assert evaluator.scoring.scorer().rows_at_once == 16
    assert answer.loss == pytest.approx(expected.loss, rel=1e-5)
    pairs = zip(answer.coefficients, expected.coefficients, strict=True)
    assert all(a[3] == pytest.approx(b[3], rel=1e-3, abs=1e-6) for a, b in pairs)


def test_the_memory_of_a_gradient_is_weights_gradient_and_activations(evaluator: Evaluator) -> None:
    request = Gradient(recipe_of(evaluator), ITEMS, "answers", WEIGHTS, measure=True)
    answer = evaluator.handle(request)
    assert isinstance(answer, Gradients)
    size = sum(
        p.numel() * p.element_size() for p in evaluator.scoring.models.home.model.parameters()
    )
    assert answer.memory["of weights"] == answer.memory["of their gradient"] == size
    assert answer.memory["of activations"] > 0
    unmeasured = evaluator.handle(replace(request, measure=False))
    assert isinstance(unmeasured, Gradients)
    assert not unmeasured.memory
    assert unmeasured.coefficients == answer.coefficients


def test_a_gradient_that_is_not_finite_fails_the_trial_and_names_parameter_and_tensor(
    evaluator: Evaluator,
) -> None:
    weight = evaluator.scoring.models.home.model.get_parameter("model.norm.weight")
    weight.requires_grad_(True)
    hook = weight.register_hook(lambda gradient: gradient * float("inf"))
    try:
        answer = evaluator.handle(Gradient(recipe_of(evaluator), ITEMS, "answers", WEIGHTS))
    finally:
        hook.remove()
    assert isinstance(answer, Failure)
    assert answer.kind == "non-finite"
    assert "the gradient by weight of model.norm.weight is not finite" in answer.message
    assert "half" in answer.message
    assert "\n" not in answer.message
