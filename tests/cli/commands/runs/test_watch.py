"""`evomerge watch`: it reads a journal, while the study writes it, and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from evomerge.study.journal.journal import follow
from evomerge.study.study import JOURNAL
from tests.cli.conftest import Run
from tests.study.small_study import stub_executable
from tests.study.study_driver import Drivers

StudyFile = Callable[..., Path]


def test_watching_a_running_search_prints_the_lines_of_the_search(
    evomerge: Run, stub_study: StudyFile, drivers: Drivers, tmp_path: Path
) -> None:
    run, output = tmp_path / "run", tmp_path / "output"
    drivers.start(
        arguments=["search", str(stub_study()), str(run)],
        executable=stub_executable(tmp_path),
        environment={"STUB_WORKER": json.dumps({"seconds": 0.005})},
        log=output,
    )
    while not (run / JOURNAL).exists():
        assert drivers is not None
    result = evomerge("watch", run, "--every", 0.05)
    assert result.code == 0
    assert drivers.wait() == 0

    def steps(text: str) -> list[str]:
        return [line.split(", rank")[0] for line in text.splitlines() if line.startswith("search:")]

    assert steps(result.out) == steps(output.read_text())
    assert json.loads((run / "verdict.json").read_text())["sentence"] in result.out


def test_a_journal_is_followed_over_a_torn_tail_that_is_cut_off(
    evomerge: Run, stub_study: StudyFile, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    evomerge("search", stub_study(), run)
    lines = (run / JOURNAL).read_bytes().splitlines(keepends=True)
    file = tmp_path / "journal.log"
    file.write_bytes(lines[0] + lines[1][:9])
    events = follow(file)
    assert next(events) is not None
    assert next(events) is None
    assert next(events) is None
    with file.open("r+b") as half:
        half.truncate(len(lines[0]))
    with file.open("ab") as whole:
        whole.write(b"".join(lines[1:]))
    rest = []
    while (event := next(events)) is not None:
        rest.append(event)
    assert rest == [json.loads(line.split(b" ", 2)[2]) for line in lines[1:]]


def test_ctrl_c_ends_the_watching_and_not_the_run(
    evomerge: Run, stub_study: StudyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    evomerge("search", stub_study(), run)
    journal = run / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:40]))

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("evomerge.cli.commands.runs.watch.time.sleep", interrupt)
    result = evomerge("watch", run)
    assert (result.code, result.err) == (0, "")
    assert "check:" in result.out
    assert result.out.count("watch: not running since ") == 1
    assert evomerge("watch", run, "--every", 5).code == 0
