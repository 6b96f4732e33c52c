"""Searches by the losses `line` and `dpo`: the same steps if resumed, and with two workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evomerge.core.errors import UserError
from evomerge.study import study as study_module
from evomerge.study.config import StudyConfig
from evomerge.study.journal.record import Record
from evomerge.study.phases.gradients import lines_of
from evomerge.study.study import JOURNAL, Study
from tests.study.small_study import WORDS, InProcessPool, events

STEPS = 3
TENSORS = {
    "merge_method": "task_arithmetic",
    "models": [
        {
            "model": "*",
            "parameters": {"weight": {"low": -1, "high": 3, "initial": 0.5, "per": "tensor"}},
        }
    ],
}


def config_of(small_study: Path, folder: Path, loss: str, **workers: Any) -> StudyConfig:
    document = json.loads(small_study.read_text())
    search = {"optimizer": "adam", "trials": STEPS, "seed": 3, "options": {"loss": loss}}
    document |= {"space": TENSORS, "search": search}
    document["workers"] |= workers
    document["evaluate"]["items"] = {"per_generation": 8}
    if loss == "dpo":
        rows = [
            {"prompt": f"{WORDS[i % 24]} ", "chosen": WORDS[i % 7], "rejected": WORDS[8 + i % 9]}
            for i in range(60)
        ]
        file = folder / "preferences.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        document["evaluate"]["tasks"] = ["small_choice", {"name": "p", "preferences": str(file)}]
    return StudyConfig.from_dict(document, small_study.parent)


def gradients_of(run: Path) -> list[list[float]]:
    return [event["gradients"][0] for event in events(run, "told")]


@pytest.mark.parametrize("loss", ["line", "dpo"])
def test_a_search_cut_off_amid_a_step_goes_on_to_the_same_steps(
    small_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    monkeypatch.setattr(study_module, "open_pool", InProcessPool)
    config = config_of(small_study, tmp_path, loss)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    Study(config, whole).optimize()
    lines = (whole / JOURNAL).read_bytes().splitlines(keepends=True)
    second = [i for i, line in enumerate(lines) if b'"gradient"' in line][3]
    cut.mkdir()
    (cut / JOURNAL).write_bytes(b"".join(lines[:second]) + lines[second][:20])
    Study(config, cut).optimize()
    assert gradients_of(cut) == gradients_of(whole)
    assert any(map(any, gradients_of(whole)))
    record = Record.read(whole)
    steps = [e for e in events(whole, "outcomes") if e.get("gradient") is not None]
    passes = 5 if loss == "line" else 1
    assert {event.get("passes", 1) for event in steps} == {passes}
    rows = sum(len(event["rows"]) for event in steps)
    assert record.paid["gradient"][1] == 3 * passes * rows
    if loss == "line":
        lines_by_task = lines_of(record, record.tasks)
        assert set(lines_by_task.values()) <= set(config.models)
        for task, parent in lines_by_task.items():  # both tasks' metrics are better when higher
            by_parent = {
                trial.recipe["models"][0]["model"]: record.scores(trial.number)[task]
                for trial in record.trials.values()
                if trial.kind == "parent"
            }
            assert by_parent[parent] == max(by_parent.values())


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["line", "dpo"])
def test_two_workers_take_the_same_steps_as_one(
    small_study: Path, tmp_path: Path, loss: str
) -> None:
    for count in (1, 2):
        config = config_of(small_study, tmp_path, loss, count=count, threads=1)
        Study(config, tmp_path / str(count)).optimize()
    assert gradients_of(tmp_path / "1") == gradients_of(tmp_path / "2")


def test_dpo_without_preferences_is_refused_at_once(small_study: Path, tmp_path: Path) -> None:
    document = json.loads(small_study.read_text())
    document["search"] = {"optimizer": "adam", "trials": 2, "options": {"loss": "dpo"}}
    document["space"] = TENSORS
    config = StudyConfig.from_dict(document, small_study.parent)
    with pytest.raises(UserError, match=r"dpo needs preferences.*add a task") as caught:
        Study(config, tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_preferences_that_are_not_there_are_named(small_study: Path, tmp_path: Path) -> None:
    document = json.loads(small_study.read_text())
    document["evaluate"]["tasks"] = [{"name": "p", "preferences": str(tmp_path / "none.jsonl")}]
    with pytest.raises(UserError, match="there is no file"):
        StudyConfig.from_dict(document, small_study.parent)
