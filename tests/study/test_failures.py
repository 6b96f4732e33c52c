"""Trials, workers and exports that fail in a study with stub workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evomerge.core.errors import UserError
from evomerge.study.study import Study
from evomerge.study.workers import scheduler
from tests.study.small_study import (
    StubWorkers,
    events,
    go,
    paid,
    record,
    stub_config,
    substance,
)

pytestmark = pytest.mark.usefixtures("stub_workers")


def test_failed_trials_have_no_fitness_and_the_search_goes_on(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers(fail="non-finite", fail_above=0.8)
    run = tmp_path / "run"
    verdict = go(run, search={"trials": 24})
    failed = {event["trial"] for event in events(run, "failed")}
    assert failed
    assert {event["kind"] for event in events(run, "failed")} == {"non-finite"}
    fitness_told = {
        n: f for e in events(run, "told") for n, f in zip(e["trials"], e["fitness"], strict=True)
    }
    assert len(fitness_told) == 24
    assert {n for n, fitness in fitness_told.items() if fitness is None} == failed & set(
        fitness_told
    )
    assert any(fitness is not None for fitness in fitness_told.values())
    status = record(run).status()
    assert status["trials"]["failed"] == len(failed)
    assert verdict["winner"]["trial"] not in failed


def test_three_generations_without_a_score_end_with_one_clear_line(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers(fail="task")
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"every trial of three generations failed.*told to fail"):
        go(run)
    assert len(events(run, "told")) == 3
    assert events(run, "told")[-1]["fitness"] == [None] * 4


def test_workers_that_cannot_start_end_with_one_clear_line(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers(broken=True)
    with pytest.raises(UserError, match=r"exit code 1.*workers\.log.*resumes"):
        go(tmp_path / "run")


def test_equal_recipes_that_fail_fail_alike_on_resume(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    sections: dict[str, Any] = {
        "space": {
            "merge_method": "task_arithmetic",
            "models": [
                {"model": "*", "parameters": {"weight": {"choice": [[0.3, 1.2], [0.9, 0.9]]}}}
            ],
        },
        "search": {"optimizer": "random", "trials": 8},
    }
    stub_workers(fail="infrastructure", fail_above=0.8)
    run = tmp_path / "run"
    go(run, **sections)
    # other work went well meanwhile, so it is the recipe that ends workers
    assert {event["kind"] for event in events(run, "failed")} == {"crash"}
    assert {event["kind"] for event in events(run, "warning")} == {"worker lost"}
    feedback = events(run, "told")
    assert any(None in event["fitness"] for event in feedback)
    stub_workers()  # now it would not fail
    go(run, **{**sections, "search": {"optimizer": "random", "trials": 12}})
    again = events(run, "told")
    assert [event["fitness"] for event in again[: len(feedback)]] == [
        e["fitness"] for e in feedback
    ]
    early = {trial for event in feedback for trial in event["trials"]}
    searched = [e for e in events(run, "outcomes") if e["trial"] in early and e["mode"] == "smooth"]
    again = [e for e in searched if e["time"] > feedback[-1]["time"]]
    assert not [event for event in again if event["phase"] == "search"]


def test_workers_lost_whatever_they_do_say_nothing_of_a_trial_which_is_tried_again_on_resume(
    stub_workers: StubWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    go(whole)
    monkeypatch.setattr(scheduler.time, "sleep", lambda _seconds: None)
    stub_workers(lost_after=[tmp_path / "count", 60])  # then every request ends its worker
    with pytest.raises(UserError, match=r"exit code 9"):
        go(run)
    assert events(run, "outcomes")
    assert not events(run, "failed")
    stub_workers()
    go(run)
    said = substance(run)
    said.pop("warning", None)
    assert said == substance(whole)


def test_stragglers_are_done_twice_which_changes_nothing(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    (tmp_path / "marks").mkdir()
    Study(stub_config(), tmp_path / "whole").optimize(8)
    stub_workers(slow=[tmp_path / "marks", 0.05, 0.5])
    Study(stub_config(workers={"count": 3}), tmp_path / "run").optimize(8)
    assert substance(tmp_path / "run") == substance(tmp_path / "whole")
    assert set(paid(tmp_path / "run").values()) == {1}


def test_two_answers_that_differ_are_warned_about(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    (tmp_path / "marks").mkdir()
    stub_workers(slow=[tmp_path / "marks", 0.05, 0.5], differ=True)
    Study(stub_config(workers={"count": 3}), tmp_path / "run").optimize(8)
    warnings = events(tmp_path / "run", "warning")
    assert {warning["kind"] for warning in warnings} == {"disagreement"}
    assert "scored the same items and 1 items differ" in warnings[0]["message"]
    assert set(paid(tmp_path / "run").values()) == {1}


def test_an_export_that_is_not_what_was_scored_is_refused(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers(wrong_export=True)
    with pytest.raises(RuntimeError, match="not those that were scored"):
        go(tmp_path / "run")
    assert not events(tmp_path / "run", "exported")
