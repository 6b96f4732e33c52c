"""Parents are inspected where they enter a study: by its driver, once, and not by its workers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from evomerge.checkpoint.sandbox import client as inspection
from evomerge.cli import main
from evomerge.study.config import StudyConfig
from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.start import start
from tests.study.small_study import InProcessPool


@pytest.fixture
def study(small_study: Path, tmp_path: Path) -> Path:
    """A study of which one parent has a file that a child is started for."""
    home = tmp_path / "home"
    shutil.copytree(small_study.parent, home, ignore=shutil.ignore_patterns("run*"))
    (home / "zoo" / "one" / "vocab.json").write_text(json.dumps({"x" * inspection.SMALL_BYTES: 0}))
    return home / small_study.name


def test_a_worker_is_told_what_the_driver_found_and_starts_no_child(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    ask = inspection.inspect_in_child
    monkeypatch.setattr(
        inspection, "inspect_in_child", lambda folders: asked.append(folders) or ask(folders)
    )
    pool = InProcessPool(StudyConfig.from_yaml(study), study)
    assert asked == [[str(study.parent / "zoo" / "one")]]
    message = json.loads(json.dumps(pool.start_message))
    inspection.forget()
    assert isinstance(start(message), Evaluator)
    assert len(asked) == 1
    inspection.forget()
    assert isinstance(start({**message, "inspected": {}}), Evaluator)  # as on another machine
    assert len(asked) == 2


def test_a_parent_that_kills_the_child_ends_a_search_before_a_worker_starts(
    study: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("evomerge.study.workers.local.subprocess", None)  # starts no worker
    kill = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    before = "from evomerge.checkpoint.sandbox import child\nchild.write({'reading': 'evil'})\n"
    monkeypatch.setattr(
        inspection, "START", inspection.START.replace("main(", f"{before}{kill}\nmain(", 1)
    )
    inspection.forget()
    assert main(["search", str(study), str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err
    assert "evil: expected a file that a separate process can read" in message
    assert message.strip().count("\n") == 0
