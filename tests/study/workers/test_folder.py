"""Workers look up a task's relative data file where the user is, as the stock lm_eval does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from evomerge.core.errors import UserError
from evomerge.study.config import StudyConfig
from evomerge.study.study import Study
from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.requests import Describe, Description
from evomerge.study.workers.start import start
from tests.study.small_study import InProcessPool

StudyFile = Callable[..., Path]


def test_a_relative_data_file_is_found_from_the_users_folder(
    own_study: StudyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = own_study()
    for file in (study.parent / "tasks").glob("*.yaml"):
        file.write_text(
            re.sub(r'"[^"]*/documents\.jsonl"', "tasks/documents.jsonl", file.read_text())
        )
    config = StudyConfig.from_yaml(study)
    monkeypatch.chdir(study.parent)
    message = json.loads(json.dumps(InProcessPool(config, Path()).start_message))
    monkeypatch.chdir("/")  # where a worker may have been started
    worker = start(message)
    assert isinstance(worker, Evaluator)
    answer = worker.handle(Describe())
    assert isinstance(answer, Description), answer
    assert Path.cwd() == study.parent


@pytest.mark.usefixtures("real_workers")
def test_data_that_shrank_are_other_tasks(own_study: StudyFile, tmp_path: Path) -> None:
    study = own_study()
    data = study.parent / "tasks" / "documents.jsonl"
    for file in data.parent.glob("*.yaml"):
        file.write_text(re.sub(r'"[^"]*/documents\.jsonl"', f'"{data}"', file.read_text()))
    with Study(StudyConfig.from_yaml(study), tmp_path / "run") as opened:
        opened.optimize(4)
        data.write_text("".join(data.read_text().splitlines(keepends=True)[:20]))
        with pytest.raises(UserError, match="the tasks changed since this study began"):
            opened.optimize(8)
