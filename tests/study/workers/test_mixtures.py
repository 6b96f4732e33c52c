"""Mixtures of experts among a study's candidates are scored as their exports are."""

import pytest

from evomerge.merge.build import build
from evomerge.recipe.recipe import Recipe
from evomerge.study.config import StudyConfig
from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.requests import Evaluate, Scores
from tests.study.small_study import real_study
from tests.study.workers.test_shapes import ITEMS, scored, stock


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return real_study(tmp_path_factory.mktemp("study") / "study")


@pytest.fixture(scope="module")
def evaluator(study):
    return Evaluator(StudyConfig.from_yaml(study))


def mixture(study, **parameters):
    zoo = study.parent / "zoo"
    document = {
        "merge_method": "moe",
        "base_model": str(zoo / "base"),
        "models": [str(zoo / name) for name in ("one", "two")],
        "parameters": {"router": "random", "sharpness": 50.0, **parameters},
        "dtype": "float32",
    }
    return Recipe.from_dict(document)


def test_a_mixture_scores_as_its_export_does(evaluator, study, tmp_path):
    recipe = mixture(study, top=1)
    answer = scored(evaluator, recipe)
    assert build(recipe, tmp_path / "out") == answer.weights_digest
    expected = stock(tmp_path / "out", study.parent / "tasks")
    assert {(r[0], r[1]): float(r[2]) for r in answer.rows} == expected


def test_top_changes_what_the_live_mixture_answers(evaluator, study):
    smooth = [
        evaluator.handle(Evaluate(recipe.to_dict(), [ITEMS], "smooth"))
        for recipe in (mixture(study, top=1), mixture(study, top=2), mixture(study, top=1))
    ]
    assert all(isinstance(answer, Scores) for answer in smooth)
    assert smooth[0].rows == smooth[2].rows != smooth[1].rows
