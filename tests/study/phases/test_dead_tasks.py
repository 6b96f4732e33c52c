"""A task in which nobody scores is named before a search on it is paid for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.study.config import StudyConfig
from evomerge.study.study import Study
from tests.study.small_study import events

StudyFile = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("real_workers")
LOST = "filter_list: [{name: lost, filter: [{function: regex, regex_pattern: '(zz)'}, %s]}]\n"


def lose_answers(study: Path) -> None:
    """Give a task a filter that finds no answer."""
    file = study.parent / "tasks" / "small_write.yaml"
    lines = file.read_text().splitlines(keepends=True)
    start = next(i for i, line in enumerate(lines) if line.startswith("filter_list"))
    stop = next(i for i in range(start + 1, len(lines)) if lines[i][0].isalpha())
    lines[start:stop] = [LOST % "{function: take_first}"]
    file.write_text("".join(lines))


def searched(study: Path, run: Path, trials: int = 8) -> list[dict[str, Any]]:
    """The warnings of a search."""
    with Study(StudyConfig.from_yaml(study), run) as opened:
        opened.optimize(trials)
    return events(run, "warning")


def test_a_task_without_points_is_named_with_an_answer_once(
    own_study: StudyFile, tmp_path: Path
) -> None:
    study = own_study(evaluate={"tasks": ["small_choice", "small_write"]})
    lose_answers(study)
    run = tmp_path / "run"
    dead = [one["message"] for one in searched(study, run) if one["kind"] == "dead task"]
    (message,) = dead
    documents = (study.parent / "tasks" / "documents.jsonl").read_text().splitlines()
    number = int(message.partition("document ")[2].partition(":")[0])
    right = json.loads(documents[number])["answer"]
    assert message.startswith(
        "task small_write: no parent, nor any usual merge, scores above 0 by exact_match: document "
    )
    assert f"right is {right!r}" in message.replace("' ", "'")
    assert "mend the task or leave it out" in message
    assert len([w for w in searched(study, run, 12) if w["kind"] == "dead task"]) == 1


def test_tasks_in_which_some_score_are_passed_over(own_study: StudyFile, tmp_path: Path) -> None:
    warnings = searched(own_study(), tmp_path / "run")
    assert not [one for one in warnings if one["kind"] == "dead task"]
