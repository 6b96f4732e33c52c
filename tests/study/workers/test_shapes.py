"""Candidates of other layers than the base are scored as their exports are."""

import lm_eval
import pytest
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from evomerge.merge.build import build
from evomerge.recipe.recipe import Recipe
from evomerge.study.config import StudyConfig
from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.requests import Describe, Description, Evaluate, Failure, Scores
from tests.study.small_study import real_study

ITEMS = {"small_choice": list(range(16)), "small_write": list(range(16))}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return real_study(tmp_path_factory.mktemp("study") / "study")


@pytest.fixture(scope="module")
def evaluator(study):
    return Evaluator(StudyConfig.from_yaml(study))


def stack(study, *parts):
    """The recipe of layers [first, end) of models, in this order."""
    zoo = study.parent / "zoo"
    listed = [
        {"sources": [{"model": str(zoo / name), "layer_range": [first, end]}]}
        for name, first, end in parts
    ]
    document = {"merge_method": "passthrough", "slices": listed, "out_dtype": "float32"}
    return Recipe.from_dict({**document, "base_model": str(zoo / "base")})


def scored(evaluator, recipe):
    answer = evaluator.handle(Evaluate(recipe.to_dict(), [ITEMS], "metric", digest=True))
    assert isinstance(answer, Scores), answer
    return answer


def stock(folder, tasks, **arguments):
    """The stock harness's metric of each item of a model's folder."""
    loaded = TaskManager(include_path=str(tasks), include_defaults=False).load(list(ITEMS))
    about = {"dtype": "float32", "batch_size": 8, "device": "cpu", **arguments}
    model = HFLM(pretrained=str(folder), **about)
    results = lm_eval.evaluate(model, loaded, bootstrap_iters=0, samples=ITEMS)
    metrics = {"small_choice": "acc", "small_write": "exact_match"}
    return {
        (task, row["doc_id"]): row[metrics[task]]
        for task, rows in results["samples"].items()
        for row in rows
    }


def test_whatever_its_depth_a_candidate_scores_as_its_export_does(evaluator, study, tmp_path):
    stacks = [
        stack(study, ("one", 0, 2), ("two", 0, 2)),
        stack(study, ("two", 1, 2)),
        stack(study, ("base", 0, 2)),  # the base's own shape, and its weights
        stack(study, ("one", 0, 1), ("two", 0, 2), ("one", 1, 2)),
    ]
    first = [scored(evaluator, recipe) for recipe in stacks]
    for number, (recipe, answer) in enumerate(zip(stacks, first, strict=True)):
        assert build(recipe, tmp_path / str(number)) == answer.weights_digest
        expected = stock(tmp_path / str(number), study.parent / "tasks")
        assert {(r[0], r[1]): float(r[2]) for r in answer.rows} == expected, number
    again = [scored(evaluator, recipe) for recipe in reversed(stacks)]
    assert [a.rows for a in again] == [a.rows for a in reversed(first)]


def test_a_wider_model_scores_as_the_narrow_one_and_is_what_is_exported(evaluator, study, tmp_path):
    zoo = study.parent / "zoo"
    document = {"merge_method": "widen", "models": [str(zoo / "one")], "out_dtype": "float32"}
    wide = Recipe.from_dict({**document, "base_model": str(zoo / "base")})
    narrow = stack(study, ("one", 0, 2))
    answers = [scored(evaluator, recipe) for recipe in (wide, narrow, wide)]
    assert build(wide, tmp_path / "wide") == answers[0].weights_digest
    assert answers[0].rows == answers[2].rows
    assert [row[2] for row in answers[0].rows] == [row[2] for row in answers[1].rows]


def test_models_of_other_depths_share_the_bases_memory(evaluator, study):
    models = evaluator.scoring.models
    scored(evaluator, stack(study, ("one", 0, 2), ("two", 0, 2)))
    deeper, _ = models.resident
    home = {p.data_ptr() for p in models.home.model.parameters()}
    apart = [n for n, p in deeper.model.named_parameters() if p.data_ptr() not in home]
    assert apart
    assert all(name.startswith(("model.layers.2.", "model.layers.3.")) for name in apart)
    shallow = scored(evaluator, stack(study, ("one", 0, 1)))
    assert shallow.batches == scored(evaluator, stack(study, ("base", 0, 2))).batches


def test_a_description_counts_the_parameters_of_a_deeper_candidate(evaluator, study):
    deep = stack(study, ("one", 0, 2), ("two", 0, 2))
    plain, deeper = (evaluator.handle(Describe(r and r.to_dict())) for r in (None, deep))
    assert isinstance(plain, Description)
    assert isinstance(deeper, Description), deeper
    model = evaluator.scoring.models.home.model
    of_layers = sum(p.numel() for p in model.model.layers.parameters())
    assert deeper.parameters - plain.parameters == of_layers


def test_a_layer_that_no_model_has_is_refused_before_a_score(evaluator, study):
    answer = evaluator.handle(Describe(stack(study, ("one", 0, 3)).to_dict()))
    assert isinstance(answer, Failure)
    assert "no tensor model.layers.2." in answer.message


def test_layers_and_parameters_are_counted_as_tasks(study):
    counted = [{"name": "depth", "counts": "layers"}, {"name": "size", "counts": "parameters"}]
    document = StudyConfig.from_yaml(study).to_dict()
    tasks = [{"name": "small_choice", "metric": "acc"}, *counted]
    document["evaluate"] = {**document["evaluate"], "tasks": tasks}
    evaluator = Evaluator(StudyConfig.from_dict(document, study.parent))
    evaluation = evaluator.handle(Describe()).evaluation
    assert evaluation["metrics"]["depth"]["higher_is_better"] is False
    assert evaluation["weights"] == {"small_choice": 1.0, "depth": 0.0, "size": 0.0}
    recipe = stack(study, ("one", 0, 2), ("two", 1, 2))
    items = {"depth": [0, 3], "size": [1]}
    answer = evaluator.handle(Evaluate(recipe.to_dict(), [items], "smooth"))
    assert isinstance(answer, Scores), answer
    model = evaluator.scoring.models.resident[0].model
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert {(r[0], r[1]): r[2] for r in answer.rows} == {
        ("depth", 0): 3.0,
        ("depth", 3): 3.0,
        ("size", 1): pytest.approx(millions),
    }
