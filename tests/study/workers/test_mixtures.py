"""Mixtures of experts among a study's candidates are scored as their exports are."""

import hashlib

import pytest

from evomerge.merge.build import build
from evomerge.recipe.recipe import Recipe
from evomerge.study.config import StudyConfig
from evomerge.study.workers import devices
from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.requests import (
    Describe,
    Evaluate,
    Export,
    Exported,
    Failure,
    Scores,
)
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


def test_routed_layers_score_as_their_export_does(evaluator, study, tmp_path):
    zoo = study.parent / "zoo"
    document = {
        "merge_method": "smile",
        "base_model": str(zoo / "base"),
        "models": [str(zoo / name) for name in ("one", "two")],
        "parameters": {"rank": 4, "gate_rank": 2},
        "dtype": "float32",
    }
    recipe = Recipe.from_dict(document)
    answer = scored(evaluator, recipe)
    assert build(recipe, tmp_path / "out") == answer.weights_digest
    code = {"trust_remote_code": True}
    expected = stock(tmp_path / "out", study.parent / "tasks", **code)
    assert {(r[0], r[1]): float(r[2]) for r in answer.rows} == expected


def test_an_export_names_size_and_code(evaluator, study, tmp_path):
    recipe = mixture(study, top=1)
    answer = evaluator.handle(Export(recipe.to_dict(), str(tmp_path / "out")))
    assert isinstance(answer, Exported), answer
    assert answer.contents["parameters"] > answer.contents["parameters_per_token"]
    assert answer.contents["code"] == {}
    routed = {
        **recipe.to_dict(),
        "merge_method": "smile",
        "parameters": {"rank": 4, "gate_rank": 2},
    }
    answer = evaluator.handle(Export(routed, str(tmp_path / "routed")))
    file = tmp_path / "routed" / "modeling_smile.py"
    assert answer.contents["code"] == {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}


def test_a_candidate_larger_than_the_device_is_refused_before_it_is_made(
    evaluator, study, monkeypatch
):
    monkeypatch.setattr(devices, "memory_of", lambda _: 20_000)
    answer = evaluator.handle(Describe(mixture(study, top=1).to_dict()))
    assert isinstance(answer, Failure)
    assert "the space's largest candidate has" in answer.message
    assert "cpu has 2e-05 GB; lower experts, rank" in answer.message
