"""Candidates streamed layer by layer: the scores and digests of whole ones, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evomerge.checkpoint.opening import open_model
from evomerge.study.config import StudyConfig
from evomerge.study.workers.devices import is_streamed, streams
from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.requests import (
    Describe,
    Description,
    Evaluate,
    Failure,
    Gradient,
    Scores,
)
from tests.study.small_study import real_study

ITEMS = [{"small_choice": list(range(12))}, {"small_choice": list(range(12, 20))}]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    given = StudyConfig.from_yaml(real_study(tmp_path_factory.getbasetemp() / "real-study"))
    tasks = tuple(task for task in given.evaluate.tasks if task.name == "small_choice")
    return replace(given, evaluate=replace(given.evaluate, tasks=tasks))


def streamed(config: StudyConfig, **workers: Any) -> StudyConfig:
    return replace(config, workers=replace(config.workers, candidate="streamed", **workers))


def recipe(config: StudyConfig, method: str, **parameters: Any) -> dict[str, Any]:
    models = [{"model": model} for model in config.models]
    document = {"merge_method": method, "base_model": config.base_model, "models": models}
    return {**document, "parameters": parameters, "dtype": "float32"}


def test_a_streamed_candidate_has_the_scores_and_the_digest_of_a_whole_one(
    config: StudyConfig,
) -> None:
    one, two = config.models
    recipes = [
        recipe(config, "ties", weight=0.5, density=0.4),
        recipe(config, "ties_global", weight=0.5, density=0.4),
        {"base_model": config.base_model, "path": [{"model": one}, {"model": two}]},
    ]
    whole, layers = Evaluator(config), Evaluator(streamed(config))
    described = [worker.handle(Describe(recipes[0])) for worker in (whole, layers)]
    assert isinstance(described[1], Description), described[1]
    assert described[0].evaluation == described[1].evaluation
    for document in recipes:
        for mode in ("smooth", "metric"):
            request = Evaluate(document, ITEMS, mode, digest=True)
            expected, answer = whole.handle(request), layers.handle(request)
            assert isinstance(expected, Scores)
            assert isinstance(answer, Scores), answer
            for row, same in zip(answer.rows, expected.rows, strict=True):
                assert row[:2] == same[:2]
                assert row[2:] == pytest.approx(same[2:], abs=1e-6)
            assert answer.batches == expected.batches
            assert answer.weights_digest == expected.weights_digest
            assert answer.seconds["build"] > 0


def test_a_candidate_that_a_device_cannot_hold_is_streamed(
    config: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = {name: open_model(name) for name in (config.base_model, *config.models)}
    live = 4 * sum(info.numel for info in opened[config.base_model].tensors.values())
    for memory, expected in ((live, True), (2 * live, False)):
        monkeypatch.setattr("evomerge.study.workers.devices.memory_of", lambda _, m=memory: m)
        assert is_streamed(config, opened, ["cpu"]) is expected
    assert is_streamed(streamed(config), opened, ["cpu"])
    workers = config.workers
    assert streams(141, 2 * 80, replace(workers, gpus=1.0)) is False
    assert streams(70, 80, replace(workers, gpus=0.5)), "two share it"
    assert not streams(141, 80, replace(workers, gpus=2.0)), "spread over two, or refused"


def refusal(config: StudyConfig, document: dict[str, Any] | None = None) -> str:
    answer = Evaluator(streamed(config)).handle(Describe(document))
    assert isinstance(answer, Failure), answer
    return answer.message


def test_what_a_streamed_candidate_cannot_do_is_refused_with_the_remedy(
    config: StudyConfig, tmp_path: Path
) -> None:
    base = {"base_model": config.base_model, "models": list(config.models)}
    shape = refusal(config, {**base, "merge_method": "smile"})
    assert "smile: it makes a model of another shape" in shape
    assert "workers.gpus" in shape
    given = StudyConfig.from_yaml(real_study(tmp_path / "study"))
    written = refusal(given)
    assert "task 'small_write': it writes answers, token by token" in written
    search = replace(config.search, optimizer="adam")
    document = recipe(config, "linear", weight=0.5)
    along = refusal(replace(config, search=search), document)
    assert along.startswith("search.optimizer: adam goes along gradients")
    assert "catcma" in along
    step = Gradient(document, ITEMS[0], "cross_entropy", {"small_choice": 1.0})
    answer = Evaluator(streamed(config)).handle(step)
    assert isinstance(answer, Failure)
    assert answer.message == along


def test_rows_of_models_are_not_run_in_a_streamed_study(config: StudyConfig) -> None:
    document = {"base_model": config.base_model, "models": list(config.models)}
    message = refusal(config, {**document, "merge_method": "regmean"})
    assert "regmean: it runs whole models on their rows" in message
