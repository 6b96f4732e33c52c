"""Sums of adapters are scored side by side as they are when built, and a study is exact in it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from evomerge.core.errors import UserError
from evomerge.evaluate.likelihood.side_by_side import LayerSums, OtherRowsError, side_by_side
from evomerge.recipe.recipe import Recipe
from evomerge.study import study as study_module
from evomerge.study.config import StudyConfig
from evomerge.study.study import Study
from evomerge.study.workers import evaluator as evaluator_module
from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.requests import (
    Evaluate,
    EvaluateTogether,
    Scores,
    ScoresTogether,
    Suited,
    SuitTogether,
)
from tests.adapters import make_adapter
from tests.study.small_study import InProcessPool, events, paid, substance

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"]
ITEMS = {"small_choice": [0, 1, 5], "small_write": [2, 3, 4]}


@pytest.fixture(scope="module")
def document(small_study: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The small study with two adapters of ranks 4 and 2 on its base."""
    folder = tmp_path_factory.mktemp("adapters")
    base = small_study.parent / "zoo" / "base"
    for seed, (name, rank) in enumerate({"one": 4, "two": 2}.items()):
        make_adapter(folder / name, base, seed=seed, r=rank, target_modules=LAYERS)
    document = json.loads(small_study.read_text())
    document["models"] = [
        {"model": document["base_model"], "adapter": str(folder / name)} for name in ("one", "two")
    ]
    return {**document, "search": {**document["search"], "trials": 4}}


@pytest.fixture(scope="module")
def config(document: dict[str, Any], small_study: Path) -> StudyConfig:
    return StudyConfig.from_dict(document, small_study.parent)


@pytest.fixture(scope="module")
def evaluator(config: StudyConfig) -> Evaluator:
    return Evaluator(config)


def recipe_of(config: StudyConfig, *weights: Any, **keys: Any) -> dict[str, Any]:
    models = [
        {"model": m, "parameters": {"weight": w}}
        for m, w in zip(config.models, weights, strict=True)
    ]
    document = {"merge_method": "task_arithmetic", "base_model": config.base_model, **keys}
    return Recipe.from_dict({"dtype": "float32", **document, "models": models}).to_dict()


def assert_as_built(evaluator: Evaluator, recipes: list[dict[str, Any]]) -> ScoresTogether:
    """Score recipes side by side, and each by itself."""
    answer = evaluator.handle(EvaluateTogether(recipes, ITEMS, "smooth"))
    assert isinstance(answer, ScoresTogether), answer
    assert answer.counts == [6] * len(recipes)
    for number, recipe in enumerate(recipes):
        built = evaluator.handle(Evaluate(recipe, [ITEMS], "smooth"))
        assert isinstance(built, Scores)
        rows = answer.rows[6 * number : 6 * number + 6]
        assert [row[:2] for row in rows] == [row[:2] for row in built.rows]
        assert [row[3] for row in rows] == pytest.approx([row[3] for row in built.rows], abs=1e-5)
        assert list(answer.batches) == list(built.batches)
    return answer


def test_candidates_side_by_side_score_as_each_does_when_it_is_built(
    evaluator: Evaluator, config: StudyConfig
) -> None:
    weights = [(0.0, 0.0), (1.0, 0.3), (-0.5, 1.5), (0.7, 0.7)]
    recipes = [recipe_of(config, *pair) for pair in weights]
    recipes += [recipe_of(config, 1.0, 0.3, parameters={"lambda": 0.5})]
    recipes += [recipe_of(config, [0.0, 1.0], 0.3)]  # by depth
    answer = assert_as_built(evaluator, recipes)
    assert answer.apart == []
    scores = {tuple(row[3] for row in answer.rows[6 * i : 6 * i + 6]) for i in range(6)}
    assert len(scores) == 6  # or nothing would be shown


def test_what_is_no_sum_of_adapters_is_built_in_the_same_answer(
    evaluator: Evaluator, config: StudyConfig
) -> None:
    blocks = [{"layers": [0, 1], "merge_method": "ties", "parameters": {"density": 0.5}}]
    recipes = [recipe_of(config, 1.0, 0.3), recipe_of(config, 1.0, 0.3, blocks=blocks)]
    assert assert_as_built(evaluator, recipes).apart == [1]


def test_a_candidate_whose_logits_break_fails_alone(
    evaluator: Evaluator, config: StudyConfig
) -> None:
    recipes = [recipe_of(config, 1.0, 0.3), recipe_of(config, 1e30, 1e30)]
    answer = evaluator.handle(EvaluateTogether(recipes, ITEMS, "smooth"))
    assert isinstance(answer, ScoresTogether)
    assert answer.counts == [6, 0]
    assert [failed[:2] for failed in answer.failures] == [(1, "non-finite")]


def test_whether_it_pays_depends_on_the_tokens_of_a_candidate(
    evaluator: Evaluator, config: StudyConfig
) -> None:
    recipe = recipe_of(config, 0.5, 0.5)
    other = recipe_of(config, 0.5, 0.5, merge_method="linear")
    asked = [
        SuitTogether(recipe, {"small_choice": [0]}, "smooth"),
        SuitTogether(recipe, {"small_choice": list(range(40))}, "smooth"),
        SuitTogether(recipe, ITEMS, "metric"),
        SuitTogether(other, ITEMS, "smooth"),
    ]
    answers = [one for one in map(evaluator.handle, asked) if isinstance(one, Suited)]
    assert [answer.possible for answer in answers] == [True, True, False, False]
    assert answers[0].why_not == ""
    assert "cheaper to build" in answers[1].why_not


def test_a_layer_that_sees_other_rows_than_the_candidates_is_refused() -> None:
    layer = torch.nn.Linear(3, 2)
    sums = LayerSums(layer, torch.ones(2, 1), torch.ones(1, 3), torch.tensor([[1.0], [2.0]]))
    x = torch.tensor([[[1.0, 2.0, 3.0]]] * 2)
    with side_by_side([sums]), torch.no_grad():
        added = layer(x) - torch.nn.functional.linear(x, layer.weight, layer.bias)
        with pytest.raises(OtherRowsError, match="rows of 2 candidates"):
            layer(x[0])  # as an expert is given tokens
    assert added.flatten().tolist() == pytest.approx([6.0, 6.0, 12.0, 12.0])
    assert not layer._forward_hooks


# -- in a study ------------------------------------------------------------------------------------


class Interrupted(InProcessPool):
    """Its worker may be ended, as by an interruption."""

    def restart(self, worker: int) -> None:
        del worker
        self._worker, self._replies = None, []


@pytest.fixture
def worker_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_module, "open_pool", Interrupted)


def searching(
    config: StudyConfig, adapters: Literal["together", "built"] = "together"
) -> StudyConfig:
    return replace(config, evaluate=replace(config.evaluate, adapters=adapters))


@pytest.mark.usefixtures("worker_here")
def test_a_study_scores_its_generations_together_and_goes_on_where_it_was_cut(
    config: StudyConfig, tmp_path: Path
) -> None:
    Study(searching(config), tmp_path / "whole").optimize()
    scored = events(tmp_path / "whole", "outcomes")
    together = [e for e in scored if e.get("together")]
    assert {e["phase"] for e in together} == {"search"}
    assert {e["mode"] for e in together} == {"smooth"}
    assert len({e["trial"] for e in together}) >= 4
    assert set(paid(tmp_path / "whole").values()) == {1}
    # Cut after the third candidate of a group: the group is scored again, as it was, and the
    # candidates that the journal has are not written twice.
    cut = tmp_path / "cut"
    count = 0

    def stop(event: Any, _record: Any) -> None:
        nonlocal count
        count += getattr(event, "together", None) is not None
        if count == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Study(searching(config), cut, stop).optimize()
    Study(searching(config), cut).optimize()
    assert substance(cut) == substance(tmp_path / "whole")
    assert set(paid(cut).values()) == {1}


@pytest.mark.usefixtures("worker_here")
def test_a_group_that_a_worker_cannot_score_is_built_one_by_one(
    config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> ScoresTogether:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(evaluator_module, "evaluate_together", broken)
    Study(searching(config), tmp_path / "run").optimize()
    assert not [e for e in events(tmp_path / "run", "outcomes") if e.get("together")]
    assert not events(tmp_path / "run", "failed")
    warned = [e["message"] for e in events(tmp_path / "run", "warning")]
    assert any("others are built one by one: RuntimeError: no such luck" in m for m in warned)


@pytest.mark.usefixtures("worker_here")
def test_a_study_that_asks_for_what_cannot_be_is_refused(
    config: StudyConfig, tmp_path: Path
) -> None:
    by_metric = replace(config.evaluate, fitness="metric", adapters="together")
    with pytest.raises(UserError, match="more than likelihoods in plain batches; leave it out"):
        Study(replace(config, evaluate=by_metric), tmp_path / "run").optimize()


@pytest.mark.slow
@pytest.mark.usefixtures("worker_here")
def test_adapters_are_built_where_the_study_says_so(config: StudyConfig, tmp_path: Path) -> None:
    Study(searching(config, "built"), tmp_path / "run").optimize()
    assert not [e for e in events(tmp_path / "run", "outcomes") if e.get("together")]
