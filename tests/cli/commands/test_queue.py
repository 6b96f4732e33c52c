"""`evomerge queue`, with `--mirror` and `--notify`: several studies in turn, and one table."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from evomerge.study.journal.record import Record
from tests.cli.conftest import Run

StudyFile = Callable[..., Path]


def test_two_seeds_of_a_study_run_and_the_table_says_what_each_recommends(
    evomerge: Run, stub_study: StudyFile, tmp_path: Path
) -> None:
    study, queue, away = stub_study(), tmp_path / "queue", (tmp_path / "away").as_uri()
    arguments = ("queue", queue, study, "--seeds", "2", "--mirror", away)
    result = evomerge(*arguments)
    assert result.code == 0, result.err
    rows = [line.split() for line in result.out.splitlines()[-3:]]
    assert rows[0][:3] == ["run", "recommends", "against"]
    for seed, row in zip((1, 2), rows[1:], strict=True):
        name = f"{study.stem}-seed{seed}"
        record = Record.read(queue / name)
        assert row[0] == name
        assert record.verdict is not None
        assert ("yes" if record.verdict.improvement_shown else "no") in row
        assert record.config["search"]["seed"] == seed
    shutil.rmtree(queue / f"{study.stem}-seed2")  # the machine is gone, the copy is not
    again = evomerge(*arguments)
    assert again.code == 0, again.err
    assert again.out.splitlines()[-3:] == result.out.splitlines()[-3:]
    assert "files came from" in again.err


def test_a_study_that_fails_leaves_the_others_alone(
    evomerge: Run, stub_study: StudyFile, tmp_path: Path
) -> None:
    good = stub_study()
    bad = good.with_name("bad.yaml")
    bad.write_text(good.read_text())
    queue = tmp_path / "queue"
    (queue / "bad").parent.mkdir()
    (queue / "bad").write_text("a file where the run folder should be")
    result = evomerge("queue", queue, bad, good)
    assert result.code == 2
    assert "expected a run folder, but it is a file" in result.err
    assert any(line.startswith("bad ") and "failed: " in line for line in result.out.splitlines())
    assert Record.read(queue / good.stem).verdict is not None


def test_two_studies_of_one_name_are_refused_before_anything_runs(
    evomerge: Run, stub_study: StudyFile, tmp_path: Path
) -> None:
    study = stub_study()
    result = evomerge("queue", tmp_path / "queue", study, study)
    assert result.code == 2
    assert "would share the run folder" in result.err
    assert not (tmp_path / "queue").exists()
