"""A parent that changes while a study runs stops it, naming the file; put back, it goes on."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.task import ConfigurableTask
from safetensors.torch import load_file, save_file

from evomerge.core.errors import UserError
from evomerge.study import study as study_module
from evomerge.study.config import StudyConfig
from evomerge.study.journal.events import Event, OutcomesEvent
from evomerge.study.journal.record import Record
from evomerge.study.study import Study
from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.requests import Describe, Evaluate, ExpectedParents, Failure, Scores
from tests.study.small_study import InProcessPool, events, substance

SLOW = pytest.mark.slow


def copy_of(study: Path, folder: Path) -> StudyConfig:
    shutil.copytree(study.parent / "zoo", folder / "zoo")
    shutil.copytree(study.parent / "tasks", folder / "tasks")
    document = json.loads(study.read_text())
    document["search"] |= {"trials": 4}
    return StudyConfig.from_dict(document, folder)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    replace(file, bytes(data))


def cut(file: Path) -> None:
    replace(file, file.read_bytes()[:-100])


def replace(file: Path, data: bytes) -> None:
    """As a careful program does; writing over a mapped file would end the process that reads it."""
    other = file.with_suffix(".new")
    other.write_bytes(data)
    os.replace(other, file)


@pytest.mark.parametrize(
    "change", [flip, *(pytest.param(c, marks=SLOW) for c in (cut, Path.unlink))]
)
def test_a_study_stops_naming_the_file_and_goes_on_when_it_is_put_back(
    small_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    monkeypatch.setattr(study_module, "open_pool", InProcessPool)
    monkeypatch.setattr(InProcessPool, "restart", lambda *_: None)
    config = copy_of(small_study, tmp_path)
    file = tmp_path / "zoo" / "two" / "model.safetensors"
    whole = file.read_bytes()

    def strike(event: Event, record: Record) -> None:
        if isinstance(event, OutcomesEvent) and record.item_evaluations > 300 and not struck:
            struck.append(record.item_evaluations)
            change(file)

    struck: list[int] = []
    with pytest.raises(UserError, match=r"two/model\.safetensors: changed while the study was run"):
        Study(config, tmp_path / "run", strike).confirm()
    assert struck
    sizes = [len(event["rows"]) for event in events(tmp_path / "run", "outcomes")]
    # Only what was under way when it changed is written down, and no score was made of the change.
    assert sum(sizes) - struck[0] <= max(sizes)
    replace(file, whole)
    Study(config, tmp_path / "run").confirm()
    Study(config, tmp_path / "undisturbed").confirm()
    assert substance(tmp_path / "run") == substance(tmp_path / "undisturbed")


@pytest.mark.slow
def test_a_file_cut_in_place_under_a_worker_that_dies_of_it_is_named(
    small_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = copy_of(small_study, tmp_path)
    file = tmp_path / "zoo" / "two" / "model.safetensors"
    whole = file.read_bytes()
    monkeypatch.setenv("EVOMERGE_FAULT", f"worker.evaluate:2:bus:{tmp_path / 'struck'}")

    def strike(event: Event, record: Record) -> None:
        del record
        if isinstance(event, OutcomesEvent):
            os.truncate(file, len(whole) // 2)

    with pytest.raises(UserError, match=r"two/model\.safetensors: truncated: expected \d+ bytes"):
        Study(config, tmp_path / "run", strike).confirm()
    assert (tmp_path / "struck").exists()
    assert len(events(tmp_path / "run", "outcomes")) == 1
    file.write_bytes(whole)
    Study(config, tmp_path / "run").confirm()
    assert len(events(tmp_path / "run", "verdict")) == 1


def test_a_file_that_is_written_again_with_the_same_content_is_the_same(
    small_study: Path, tmp_path: Path
) -> None:
    config = copy_of(small_study, tmp_path)
    evaluator = Evaluator(config)
    description = evaluator.handle(Describe())
    expected = ExpectedParents(description.stamp, description.fingerprints)
    file = tmp_path / "zoo" / "one" / "model.safetensors"
    replace(file, file.read_bytes())
    os.utime(file, ns=(1, 1))
    evaluator.watch.check(expected)
    Evaluator(config).watch.check(expected)  # a new worker sees another time, and compares


def test_a_worker_that_starts_after_the_change_does_not_use_the_new_file(
    small_study: Path, tmp_path: Path
) -> None:
    config = copy_of(small_study, tmp_path)
    description = Evaluator(config).handle(Describe())
    expected = ExpectedParents(description.stamp, description.fingerprints)
    flip(tmp_path / "zoo" / "one" / "model.safetensors")
    late = Evaluator(config)
    answer = late.handle(Evaluate({}, [], "metric", expected))
    assert isinstance(answer, Failure)
    assert answer.kind == "study"
    assert f"{tmp_path}/zoo/one" in answer.message


def test_merged_values_beyond_float16_fail_the_trial_and_name_the_tensor(
    small_study: Path, tmp_path: Path
) -> None:
    config = copy_of(small_study, tmp_path)
    for name, value in (("base", 3e4), ("one", 3e4), ("two", 6e4)):
        file = tmp_path / "zoo" / name / "model.safetensors"
        tensors = load_file(file)
        tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], value)
        save_file(tensors, file, metadata={"format": "pt"})
    document = {**config.to_dict(), "output": {"dtype": "float16"}}
    evaluator = Evaluator(StudyConfig.from_dict(document, tmp_path))
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": config.base_model,
        "models": [{"model": config.models[1], "parameters": {"weight": 1.5}}],
        "dtype": "float32",
        "out_dtype": "float16",
    }
    items = {"small_choice": [0]}
    answer = evaluator.handle(Evaluate(recipe, [items], "metric"))
    assert isinstance(answer, Failure)
    assert answer.kind == "user"
    assert "model.norm.weight: 32 of 32 merged values are not finite in float16" in answer.message


def test_an_item_that_its_task_cannot_grade_counts_as_wrong_and_many_fail_the_trial(
    small_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = Evaluator(StudyConfig.from_yaml(small_study))
    recipe = {
        "merge_method": "linear",
        "models": [{"model": evaluator.config.models[0], "parameters": {"weight": 1.0}}],
        "dtype": "float32",
    }
    grade = ConfigurableTask.process_results

    def raising(task: Any, document: Any, results: Any) -> Any:
        if document["prompt"] in broken:
            raise ZeroDivisionError("token hf_abcdefghijklmnopqrstuvwx in an error")
        return grade(task, document, results)

    monkeypatch.setattr(ConfigurableTask, "process_results", raising)
    lines = (small_study.parent / "tasks" / "documents.jsonl").read_text().splitlines()
    documents = [json.loads(line) for line in lines]
    items = {"small_write": list(range(20))}
    request = Evaluate(recipe, [items], "metric")
    broken = [documents[7]["prompt"]]
    answer = evaluator.handle(request)
    assert isinstance(answer, Scores)
    assert answer.errors == [["small_write", 7, "ZeroDivisionError: token [redacted] in an error"]]
    assert answer.rows[7][2] == 0.0
    broken = [documents[i]["prompt"] for i in range(5)]
    failed = evaluator.handle(request)
    assert isinstance(failed, Failure)
    assert failed.kind == "task"
    assert "5 of 20 items could not be graded; the first, document 0 of task" in failed.message
