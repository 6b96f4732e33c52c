"""Which items each phase of a study sees, and what other runs have paid for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import evomerge as em
from evomerge.core.errors import UserError
from evomerge.report.page.page import page
from evomerge.report.run import Run
from evomerge.report.status import status_text
from evomerge.study.journal.codec import to_json
from evomerge.study.study import Study
from tests.study.small_study import (
    StubWorkers,
    events,
    go,
    record,
    stub_config,
    substance,
)

pytestmark = pytest.mark.usefixtures("stub_workers")


def test_the_three_pools_share_no_item_and_every_phase_keeps_to_its_own(tmp_path: Path) -> None:
    run = tmp_path / "run"
    go(run)
    pools = {
        pool: {(task, i) for task, ids in items.items() for i in ids}
        for pool, items in events(run, "study")[0]["pools"].items()
    }
    assert len(set.union(*pools.values())) == sum(map(len, pools.values()))
    allowed = {"anchors": "search", "search": "search", "race": "race", "verdict": "holdout"}
    for event in events(run, "outcomes"):
        assert {(row[0], row[1]) for row in event["rows"]} <= pools[allowed[event["phase"]]]
    assert {event["phase"] for event in events(run, "outcomes")} == set(allowed)


def test_candidates_of_a_generation_see_the_same_items_and_generations_other_ones(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    go(run)
    asks = [event for event in events(run, "asked") if event["trials"][0]["generation"] is not None]
    seen = []
    for ask in asks:
        items = {(task, i) for task, ids in ask["items"].items() for i in ids}
        seen.append(frozenset(items))
        for trial in ask["trials"]:
            scored = {
                (row[0], row[1])
                for event in events(run, "outcomes")
                if event["digest"] == trial["digest"] and event["mode"] == "smooth"
                for row in event["rows"]
            }
            assert scored == items
    assert len(seen) == 4
    assert len(set(seen)) == 4


def test_documents_that_belong_together_are_in_one_pool_and_in_the_journal(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers(shared=20)  # both tasks have the first twenty documents
    run = tmp_path / "run"
    go(run, search={"trials": 4})
    pools, clusters = record(run).pools, record(run).clusters
    for pool in ("race", "holdout"):
        both = [i for i in pools[pool]["stub_choice"] if i < 20]
        assert both
        assert sorted(both) == sorted(i for i in pools[pool]["stub_write"] if i < 20)
        for i in both:
            assert clusters["stub_choice"][i] == clusters["stub_write"][i]
    assert {i < 20 for ids in clusters.values() for i in ids} == {True}
    comparison = record(run).verdict.comparisons[0]  # type: ignore[union-attr]
    n_items = sum(map(len, pools["holdout"].values()))
    twice = sum(i < 20 for i in pools["holdout"]["stub_choice"])
    assert (comparison.items, comparison.units) == (n_items, n_items - twice)


def test_outcomes_of_another_run_are_copied_and_not_scored_again(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    first, log = tmp_path / "first", tmp_path / "log"
    verdict = go(first)
    stub_workers(log=log)
    again = Study(stub_config(), tmp_path / "again", reuse=[first])
    assert {**to_json(again.confirm()), "reproduce": ""} == {**verdict, "reproduce": ""}
    assert not log.exists()  # nothing was evaluated
    replayed = again.record
    assert (replayed.item_evaluations, replayed.reused) == (0, record(first).item_evaluations)
    assert substance(tmp_path / "again")["outcomes"] == substance(first)["outcomes"]
    # the copy stands alone, and other trials are paid for as ever
    shutil.rmtree(first)
    Study(stub_config(search={"trials": 20}), tmp_path / "again").confirm()
    assert again.record.item_evaluations > 0
    assert "taken from other runs" in status_text(again.record)
    assert "taken from other runs" in page(Run.read(tmp_path / "again"))


def test_only_items_that_another_run_has_are_taken_from_it(tmp_path: Path) -> None:
    go(tmp_path / "first", search={"trials": 4})
    Study(stub_config(), tmp_path / "whole").optimize()
    Study(stub_config(), tmp_path / "part", reuse=[tmp_path / "first"]).optimize()
    assert substance(tmp_path / "part") == substance(tmp_path / "whole")
    replayed = record(tmp_path / "part")
    assert replayed.reused
    assert (
        replayed.reused + replayed.item_evaluations == record(tmp_path / "whole").item_evaluations
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"fingerprint": "x", "fingerprint_of": "two"},
            "expected the same parents, but two differ",
        ),
        ({"protocol": "another"}, "expected the same evaluation"),
    ],
)
def test_another_run_with_other_parents_or_tasks_is_refused(
    stub_workers: StubWorkers, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    stub_workers(**settings)
    Study(stub_config(), tmp_path / "first").optimize(4)
    stub_workers()
    with pytest.raises(UserError, match=f"--reuse .*first: {message}"):
        Study(stub_config(), tmp_path / "again", reuse=[tmp_path / "first"]).optimize(4)
    assert not events(tmp_path / "again", "outcomes")
    with pytest.raises(UserError, match="cannot read journal"):
        Study(stub_config(), tmp_path / "again", reuse=[tmp_path / "nowhere"]).optimize(4)


APART: dict[str, Any] = {
    "tasks": ["stub_choice", "stub_write", "stub_exam"],
    "items": {
        "search_tasks": ["stub_choice"],
        "race_tasks": ["stub_write"],
        "holdout_tasks": ["stub_exam"],
    },
}


def test_pools_may_be_tasks_of_their_own(stub_workers: StubWorkers, tmp_path: Path) -> None:
    stub_workers(documents=200)
    run = tmp_path / "run"
    verdict = go(run, evaluate=APART, search={"trials": 24})
    seen: dict[str, set[str]] = {}
    for event in events(run, "outcomes"):
        seen.setdefault(event["phase"], set()).update(row[0] for row in event["rows"])
    assert seen == {
        "anchors": {"stub_choice"},
        "search": {"stub_choice"},
        "race": {"stub_write"},
        "verdict": {"stub_exam"},
    }
    assert all(scores.keys() == {"stub_exam"} for scores in verdict["scores"].values())
    assert all(comparison["items"] == 200 for comparison in verdict["comparisons"])
    text = page(Run.read(run))
    assert "stub_exam" in text
    assert "best anchor" in status_text(record(run))
    assert len(em.load_study(run).trials_dataframe()) == record(run).next_number


def test_tasks_that_are_in_no_list_are_split_by_the_shares(tmp_path: Path) -> None:
    run = tmp_path / "run"
    go(run, evaluate={**APART, "items": {"holdout_tasks": ["stub_exam"]}}, search={"trials": 4})
    pools = events(run, "study")[0]["pools"]
    assert {pool: set(items) for pool, items in pools.items()} == {
        "search": {"stub_choice", "stub_write"},
        "race": {"stub_choice", "stub_write"},
        "holdout": {"stub_choice", "stub_write", "stub_exam"},
    }


@pytest.mark.parametrize(
    ("items", "settings", "message"),
    [
        (
            {},
            {"shared": 7},
            r"stub_write is for the pool 'race' and stub_choice for 'search', but"
            r" they have 7 documents in common",
        ),
        (
            {"race_tasks": ["stub_wirte"]},
            {},
            r"race_tasks: unknown task 'stub_wirte': did you mean",
        ),
    ],
)
def test_pools_that_overlap_or_are_misspelt_are_refused_before_anything_is_spent(
    stub_workers: StubWorkers,
    tmp_path: Path,
    items: dict[str, Any],
    settings: dict[str, Any],
    message: str,
) -> None:
    stub_workers(**settings)
    evaluate = {**APART, "items": {**APART["items"], **items}}
    with pytest.raises(UserError, match=message):
        go(tmp_path / "run", evaluate=evaluate)
    assert not events(tmp_path / "run", "study")


def test_a_task_in_two_lists_and_constraints_over_such_pools_are_refused() -> None:
    twice = {**APART, "items": {"race_tasks": ["stub_exam"], "holdout_tasks": ["stub_exam"]}}
    with pytest.raises(UserError, match="task stub_exam is listed twice"):
        stub_config(evaluate=twice)
    with pytest.raises(UserError, match="no task may belong to one pool alone"):
        stub_config(evaluate=APART, search={"constraints": ["stub_choice >= base"]})
