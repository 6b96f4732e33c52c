"""Trials that write nothing fail; anchors never do, nor does anyone where nobody can write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evomerge.evaluate.outcomes import OutcomeRow
from evomerge.study.config import StudyConfig
from evomerge.study.journal.codec import parse_all
from evomerge.study.journal.outcomes import OutcomeTable
from evomerge.study.journal.record import Record
from evomerge.study.phases.degenerate import degenerate
from evomerge.study.study import Study
from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.requests import Evaluate, Scores
from tests.study.small_study import StubWorkers, events, stub_config, substance

METRIC: dict[str, Any] = {"evaluate": {"fitness": "metric", "items": {"per_generation": 24}}}


def answers(bad: int, of: int, task: str = "write") -> list[OutcomeRow]:
    return [OutcomeRow(task, i, 0.0, None, 0, 1, int(i < bad)) for i in range(of)]


@pytest.mark.parametrize(
    ("bad", "of", "bad_there", "of_there", "fails"),
    [
        (20, 20, 0, 20, True),
        (19, 20, 0, 20, True),  # 95 of a hundred
        (18, 20, 0, 20, False),
        (94, 100, 0, 100, False),
        (19, 19, 0, 19, False),  # too few to say
        (20, 20, 10, 20, True),
        (20, 20, 11, 20, False),  # the reference cannot write either
        (20, 20, 0, 0, False),  # nothing to compare with
    ],
)
def test_nearly_all_answers_must_be_none_and_most_of_the_references_some(
    bad: int, of: int, bad_there: int, of_there: int, fails: bool
) -> None:
    why = degenerate(answers(bad, of), answers(bad_there, of_there), ["write"])
    assert (why is not None) == fails
    if why:
        assert f"{bad} of {of} generated answers" in why
        assert why.endswith(f"{bad_there} of {of_there}")


def test_choices_and_likelihoods_are_no_generated_answers() -> None:
    fine = answers(0, 20)
    chosen = answers(20, 20, "choose")
    assert degenerate([*chosen, *answers(19, 19)], fine, ["write"]) is None
    computed = [row._replace(metric=None) for row in answers(20, 20)]
    assert degenerate(computed, fine, ["write"]) is None
    assert degenerate([*chosen, *answers(20, 20)], fine, ["write"]) is not None


def is_start(point: Sequence[Any]) -> bool:
    """Whether it is the search's first, the best anchor again, which the stub lets write."""
    return point[0] == point[1]


def test_trials_that_write_nothing_are_told_as_failed_and_the_search_goes_on(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers(silent_above=0.6)
    Study(stub_config(**METRIC), tmp_path / "run").confirm()
    record = Record.from_events(parse_all(events(tmp_path / "run")))
    pairs = [zip(e["trials"], e["fitness"], strict=True) for e in events(tmp_path / "run", "told")]
    fitness_of = {number: fitness for of_generation in pairs for number, fitness in of_generation}
    points = {n: record.trials[n].point for n in fitness_of}
    silent = {n for n, point in points.items() if point[0] > 0.6 and not is_start(point)}
    assert 0 < len(silent) < len(fitness_of)
    assert {n for n, fitness in fitness_of.items() if fitness is None} == silent
    failed = events(tmp_path / "run", "failed")
    assert {e["trial"] for e in failed} == silent
    assert {(e["kind"], e["phase"]) for e in failed} == {("degenerate", "search")}
    assert "24 of 24 generated answers are blank" in failed[0]["message"]
    assert {record.trials[n].kind for n in silent} == {"trial"}


def test_a_resumed_study_fails_the_same_trials_once(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers(silent_above=0.6)
    Study(stub_config(**METRIC), tmp_path / "whole").confirm()
    for trials in (4, 8, 16):
        Study(stub_config(**METRIC), tmp_path / "run").optimize(trials)
    Study(stub_config(**METRIC), tmp_path / "run").confirm()
    whole, run = substance(tmp_path / "whole"), substance(tmp_path / "run")
    assert run["failed"] == whole["failed"]
    assert [e["fitness"] for e in run["told"]] == [e["fitness"] for e in whole["told"]]


def test_no_trial_fails_if_no_parent_writes_or_nothing_is_generated(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers(silent=True)
    Study(stub_config(**METRIC), tmp_path / "silent").confirm()
    assert not events(tmp_path / "silent", "failed")
    stub_workers(silent_above=0.0)
    Study(stub_config(), tmp_path / "smooth").confirm()
    assert not events(tmp_path / "smooth", "failed")


def test_a_search_of_nothing_but_silence_is_not_stopped_as_broken(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers(silent_above=-1.0)
    Study(stub_config(**METRIC), tmp_path / "run").confirm()
    record = Record.from_events(parse_all(events(tmp_path / "run")))
    fitness_of = {
        n: record.trials[n].fitness for a in record.generations.values() for n in a.trials
    }
    assert len(fitness_of) == 16
    for number, fitness in fitness_of.items():
        assert (fitness is None) == (not is_start(record.trials[number].point))


def test_a_model_of_zeros_writes_blanks_and_the_base_does_not(small_study: Path) -> None:
    evaluator = Evaluator(StudyConfig.from_yaml(small_study))
    base = evaluator.config.base_model
    items = {"small_write": [0, 1, 2], "small_choice": [0]}

    def rows(scale: float) -> list[list[Any]]:
        recipe = {
            "merge_method": "passthrough",
            "models": [{"model": base, "parameters": {"scale": scale}}],
            "dtype": "float32",
        }
        answer = evaluator.handle(Evaluate(recipe, [items], "metric"))
        assert isinstance(answer, Scores)
        return [list(row) for row in answer.rows]

    assert [len(row) for row in rows(1.0)] == [6, 6, 6, 6]
    assert [row[6:] for row in rows(0.0)] == [[1], [1], [1], []]


def test_the_outcome_table_keeps_what_was_no_answer() -> None:
    table = OutcomeTable()
    table.add("d", "metric", [["write", 0, 0.0, None, 1, 0, 1], ["write", 1, 1.0, None, 0, 1]])
    assert table.rows("d", "metric", {"write": [0, 1]}) == [
        OutcomeRow("write", 0, 0.0, None, 1, 0, 1),
        OutcomeRow("write", 1, 1.0, None, 0, 1, 0),
    ]
    assert table.written("d", ["write"]) == (2, 1, 1)
    assert table.disagreements == 0
    table.add("d", "metric", [["write", 0, 0.0, None, 1, 0]])
    assert table.disagreements == 1
