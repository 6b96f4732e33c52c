"""Mixtures of experts among a study's candidates are scored as their exports are."""

import hashlib
import json

import pytest

import evomerge
from evomerge.calibration.requests import Measured, Train
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


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVOMERGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


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


def routed(study, method, **parameters):
    zoo = study.parent / "zoo"
    models = [{"model": str(zoo / name)} for name in ("one", "two")]
    for number, entry in enumerate(models) if method != "smile" else ():
        rows = study.parent / f"rows-{number}.jsonl"
        texts = [{"text": f"w{n + 7 * number} w3 w{5 + number} w9"} for n in range(6)]
        rows.write_text("".join(json.dumps(text) + "\n" for text in texts))
        entry["data"] = str(rows)
    document = {
        "merge_method": method,
        "base_model": str(zoo / "base"),
        "models": models,
        "parameters": {"rank": 4, **parameters},
        "dtype": "float32",
    }
    return Recipe.from_dict(document)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("smile", {"gate_rank": 2}),
        ("twin_merging", {"steps": 40}),
        ("wemoe", {"steps": 20, "rate": 0.1}),
        ("mole", {"steps": 20, "rate": 0.1}),
    ],
)
def test_routed_layers_score_as_their_export_does(evaluator, study, tmp_path, method, parameters):
    recipe = routed(study, method, **parameters)
    answer = scored(evaluator, recipe)
    assert evomerge.build(recipe, tmp_path / "out") == answer.weights_digest
    expected = stock(tmp_path / "out", study.parent / "tasks", trust_remote_code=True)
    assert {(r[0], r[1]): float(r[2]) for r in answer.rows} == expected


def test_gates_are_a_unit_of_work_and_scales_train_nothing_again(
    evaluator, study, tmp_path, monkeypatch
):
    monkeypatch.setattr(evaluator.statistics, "_folder", tmp_path)
    made = [
        evaluator.handle(Train(routed(study, "mole", steps=5, scale=scale).to_dict()))
        for scale in (1.0, [1.2, 0.4])
    ]
    assert all(isinstance(one, Measured) for one in made), made
    assert made[0].statistic == made[1].statistic
    assert (made[0].rows, made[0].cut) == (12, 0)
    assert len(list(tmp_path.iterdir())) == 1
    other = evaluator.handle(Train(routed(study, "mole", steps=6).to_dict()))
    assert other.statistic != made[0].statistic


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
    file = tmp_path / "routed" / "modeling_routed.py"
    assert answer.contents["code"] == {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}


def test_a_candidate_larger_than_the_device_is_refused_before_it_is_made(
    evaluator, study, monkeypatch
):
    monkeypatch.setattr(devices, "memory_of", lambda _: 20_000)
    answer = evaluator.handle(Describe(mixture(study, top=1).to_dict()))
    assert isinstance(answer, Failure)
    assert "the space's largest candidate has" in answer.message
    assert "cpu has 2e-05 GB; lower experts, rank" in answer.message
