"""A study in Python: asked and told elsewhere, called back, loaded again, read as tables."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path
from typing import Any

import pytest

import evomerge as em
from evomerge.core.errors import StudyEnded, UserError
from evomerge.study.journal.codec import parse
from evomerge.study.statistics.pareto import pareto_front
from evomerge.study.study import Study
from evomerge.study.trial import Trial
from tests.report import report_bench as bench
from tests.study.small_study import StubWorkers, events, stub_config
from tests.study.stub_worker import quality


def elsewhere(run: Path, **sections: Any) -> Study:
    return Study(stub_config(**sections), run)


def scores_of(trial: Trial) -> dict[str, float]:
    """What a caller might measure: good recipes have small weights in front, large ones behind."""
    good = quality(trial.recipe.to_dict())
    return {"stub_choice": good, "stub_write": good / 2}


def told(run: Path) -> list[Any]:
    return [event["fitness"] for event in events(run, "told")]


def go(study: Study, trials: int) -> list[Trial]:
    """Ask, score and tell so many trials."""
    seen = []
    for _ in range(trials):
        seen.append(study.ask())
        study.tell(seen[-1], scores_of(seen[-1]))
    return seen


# -- evaluation elsewhere --------------------------------------------------------------------------


def test_asked_and_told_elsewhere_a_search_gets_better_and_starts_no_worker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere")
    with elsewhere(tmp_path / "run", search={"trials": 60}) as study:
        first = go(study, 13)
        assert {trial.kind for trial in first} == {"parent", "base", "anchor"}
        assert [trial.name for trial in first[:3]] == ["one", "two", "base"]
        searched = go(study, 60)
        assert {trial.kind for trial in searched} == {"trial"}
        best = study.best_trial
        assert best.gain is not None
        assert best.gain > 0.05
        anchor = max(quality(trial.recipe.to_dict()) for trial in first)
        # the weights of both tasks are equal: (q + q / 2) / 2
        assert best.gain == pytest.approx(0.75 * (quality(best.recipe.to_dict()) - anchor))
        assert best.scores == scores_of(best)
        assert best.params.keys() == {d.name for d in study.space.dimensions}


def test_stopped_and_resumed_at_every_tell_the_search_is_the_same(tmp_path: Path) -> None:
    with elsewhere(tmp_path / "whole") as study:
        go(study, 13 + 12)
    for _ in range(13 + 12):
        with elsewhere(tmp_path / "pieces") as study:
            study.ask()  # handed out, no result
        with elsewhere(tmp_path / "pieces") as study:
            go(study, 1)
    assert told(tmp_path / "pieces") == told(tmp_path / "whole")
    assert len(told(tmp_path / "whole")) == 3

    def points(run: Path) -> list[Any]:
        return [t["point"] for event in events(run, "asked") for t in event["trials"]]

    assert points(tmp_path / "pieces") == points(tmp_path / "whole")


def test_a_tell_lost_before_its_generation_was_closed_is_made_up_on_resume(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with elsewhere(run) as study:
        go(study, 13 + 4)
    journal = run / "journal.log"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert b'"event":"told"' in lines[-1]
    journal.write_bytes(b"".join(lines[:-1]))
    with elsewhere(run) as study:
        assert study.ask().generation == 1
    assert len(told(run)) == 1


def test_a_generation_may_be_told_in_any_order_and_failures_count_as_worst(tmp_path: Path) -> None:
    with elsewhere(tmp_path / "run") as study:
        go(study, 13)
        four = [study.ask() for _ in range(4)]
        with pytest.raises(UserError, match=r"handed out, and 4 of them have no result.*tell\(\)"):
            study.ask()
        study.tell(four[2], None, "the cluster said no")
        for trial in (four[3], four[0], four[1]):
            study.tell(trial.number, scores_of(trial))
        assert study.ask().generation == 1
        failed = study.trials[four[2].number]
        assert failed.state == "failed"
        assert failed.failure is not None
        assert failed.failure.message == "the cluster said no"
    assert [value is None for value in told(tmp_path / "run")[0]] == [False, False, True, False]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (
            {"stub_choice": 1.0},
            "at most 1e[+]60 for task stub_write, but got None",
        ),
        ({"stub_choice": 1.0, "stub_wirte": 1.0}, "unknown task 'stub_wirte': did you mean"),
        (
            {"stub_choice": math.nan, "stub_write": 1},
            "at most 1e[+]60 for task stub_choice",
        ),
        ({"stub_choice": True, "stub_write": 1}, "at most 1e[+]60 for task stub_choice"),
        (0.5, "a score for each of"),
    ],
)
def test_scores_that_mean_nothing_are_refused_and_nothing_is_written(
    tmp_path: Path, scores: Any, message: str
) -> None:
    with elsewhere(tmp_path / "run") as study:
        trial = study.ask()
        before = len(events(tmp_path / "run"))
        with pytest.raises(UserError, match=message):
            study.tell(trial, scores)
        assert len(events(tmp_path / "run")) == before
        study.tell(trial, scores_of(trial))
        with pytest.raises(UserError, match="has a result already"):
            study.tell(trial, scores_of(trial))
        with pytest.raises(UserError, match="expected a trial that ask"):
            study.tell(999, scores_of(trial))


def test_one_task_needs_no_name(tmp_path: Path) -> None:
    config = stub_config(evaluate={"tasks": [{"name": "gsm8k"}]})
    with Study(config, tmp_path / "run") as study:
        study.tell(study.ask(), 0.61)
        assert study.trials[0].scores == {"gsm8k": 0.61}


def test_a_study_is_evaluated_here_or_elsewhere_not_both(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    with elsewhere(tmp_path / "told") as study:
        go(study, 1)
        with pytest.raises(
            UserError, match=r"evaluated externally: continue with ask\(\) and tell\(\)"
        ):
            study.optimize()
    stub_workers()
    elsewhere(tmp_path / "own").optimize(4)
    with pytest.raises(UserError, match=r"with its own workers: call optimize\(\)"):
        elsewhere(tmp_path / "own").ask()
    with pytest.raises(UserError, match="seed was 1, now 2"):
        elsewhere(tmp_path / "told", search={"seed": 2}).ask()


# -- callbacks -------------------------------------------------------------------------------------


def test_callbacks_see_every_trial_once_with_its_fitness_and_may_stop_the_search(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers(documents=60)
    seen: list[tuple[int, float | None]] = []

    def note(study: Study, trial: Trial) -> None:
        seen.append((trial.number, trial.fitness))
        if len(study.trials_dataframe().query("state == 'told'")) >= 8:
            study.stop()

    study = elsewhere(tmp_path / "run")
    study.optimize(16, callbacks=[note])
    numbers = [n for e in events(tmp_path / "run", "told") for n in e["trials"]]
    assert seen == list(zip(numbers, itertools.chain(*told(tmp_path / "run")), strict=True))
    assert len(seen) == 8
    assert events(tmp_path / "run", "search_ended")[-1]["reason"] == "stopped"
    study.confirm()  # judges what was found, and does not search on
    assert len(told(tmp_path / "run")) == 2
    assert study.best_recipe.digest
    seen.clear()
    study.optimize(20, callbacks=[lambda _study, trial: seen.append((trial.number, None))])
    assert len(seen) == 12


def test_an_error_in_a_callback_ends_the_run_and_it_resumes(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers()

    def fail(_study: Study, _trial: Trial) -> None:
        raise ZeroDivisionError

    study = elsewhere(tmp_path / "run")
    with pytest.raises(ZeroDivisionError):
        study.optimize(8, callbacks=[fail])
    study.optimize(8)
    assert len(told(tmp_path / "run")) == 2


# -- reading ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("searched")
    with pytest.MonkeyPatch.context() as patch:
        StubWorkers(patch, folder)(fail="non-finite", fail_above=0.5)
        Study(stub_config(), folder / "run").confirm()
    return folder / "run"


def test_a_loaded_study_is_the_study(searched: Path, stub_workers: StubWorkers) -> None:
    stub_workers(broken=True)
    study = em.load_study(searched)
    assert study.config == stub_config()
    verdict = events(searched, "verdict")[0]
    assert study.best_recipe.digest == verdict["winner"]["digest"]
    assert study.confirm().winner.trial == verdict["winner"]["trial"]
    assert len(study.trials) == study.record.next_number
    gains = [t.gain for t in study.trials if t.kind == "trial" and t.gain is not None]
    assert study.best_trial.gain == max(gains)


def test_a_folder_without_a_run_is_not_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read journal"):
        em.load_study(tmp_path)


def test_the_trials_table_holds_what_the_journal_holds(searched: Path) -> None:
    study = em.load_study(searched)
    frame = study.trials_dataframe()
    assert list(frame["number"]) == [trial.number for trial in study.trials]
    trials = frame[frame["kind"] == "trial"]
    assert len(trials) == 16
    flat = [value for fitness in told(searched) for value in fitness]
    expected = [math.nan if value is None else value for value in flat]
    assert trials["fitness"].tolist() == pytest.approx(expected, nan_ok=True)
    assert set(trials["failure"].dropna()) == {"non-finite"}
    assert trials["failure"].notna().tolist() == [value is None for value in flat]
    asked = [t["point"] for e in events(searched, "asked") for t in e["trials"]]
    names = [f"param_{d.name}" for d in study.space.dimensions]
    rows = [row for row in frame[names].to_numpy().tolist() if row[0] == row[0]]
    assert rows == [point for point in asked if point is not None]
    assert {"score_stub_choice", "score_stub_write"} <= set(frame.columns)


def test_the_outcomes_table_has_a_row_for_every_item_paid_for(searched: Path) -> None:
    frame = em.load_study(searched).outcomes_dataframe()
    rows = {
        (event["digest"], event["mode"], row[0], row[1]): row[2]
        for event in events(searched, "outcomes")
        for row in event["rows"]
    }
    assert len(frame) == len(rows)
    keys = frame[["digest", "mode", "task", "item"]].itertuples(index=False, name=None)
    for key, metric in zip(keys, frame["metric"], strict=True):
        assert rows[key] == metric or (rows[key] is None and metric != metric)
    assert set(frame["pool"]) == {"search", "race", "holdout"}


def test_truncated_and_unextracted_answers_are_shares_of_what_was_generated() -> None:
    from evomerge.study.journal.record import Record

    record = Record()
    task = {"metric": "m", "higher_is_better": True, "weight": 1.0}
    kinds = {"write": {**task, "output_type": "generate_until"}, "choose": task}
    record.apply(parse(bench.study(tasks=kinds)))
    trial = {"trial": 0, "kind": "trial", "name": "trial 0", "generation": 0, "index": 0}
    trial |= {"point": [1.0], "recipe": {}, "digest": "d"}
    items = {"write": [0, 1, 2, 3], "choose": [0]}
    record.apply(parse({"event": "asked", "trials": [trial], "items": items}))
    assert Trial(record, 0).truncated is None
    rows: list[list[Any]] = [["write", i, 1.0, None, i == 0, i > 1] for i in range(4)]
    rows.append(["choose", 0, 1.0, None, 1, 0])  # nothing was generated there
    event = {"event": "outcomes", "trial": 0, "digest": "d", "mode": "metric", "phase": "search"}
    record.apply(parse({**event, "rows": rows, "seconds": {}, "worker": "0"}))
    assert Trial(record, 0).truncated == 0.25
    assert Trial(record, 0).unextracted == 0.5


def test_the_pareto_front_by_brute_force() -> None:
    grid = list(itertools.product(range(3), repeat=3))
    chosen = [point for i, point in enumerate(grid) if i % 4 and sum(point) < 5]

    def beaten(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
        return a != b and all(x <= y for x, y in zip(a, b, strict=True))

    front = [i for i, a in enumerate(chosen) if not any(beaten(a, b) for b in chosen)]
    assert pareto_front(chosen) == front
    assert pareto_front([(0.5,), (0.7,), (0.7,)]) == [1, 2]
    assert pareto_front([]) == []


def test_asking_ends_where_the_next_generation_would_exceed_the_trials(tmp_path: Path) -> None:
    with elsewhere(tmp_path / "run", search={"trials": 9, "population": 4}) as study:
        searched = go(study, 13 + 8)[13:]
        assert [trial.generation for trial in searched] == [0] * 4 + [1] * 4
        with pytest.raises(StudyEnded, match="ended after 8 of 9 trials"):
            study.ask()
