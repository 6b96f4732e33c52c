"""A study that is run again, further, with another file or over a damaged journal."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from evomerge.core.errors import UserError
from evomerge.report import summary
from evomerge.study.journal.codec import parse_all
from evomerge.study.journal.record import Record
from evomerge.study.study import JOURNAL, Study
from tests.study.small_study import (
    StubWorkers,
    events,
    go,
    paid,
    stub_config,
    substance,
)

pytestmark = pytest.mark.usefixtures("stub_workers")


def test_a_finished_study_returns_its_verdict_at_once_without_workers(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    first = go(run)
    size = len(events(run))
    stub_workers(broken=True)
    assert go(run) == first
    assert [event["event"] for event in events(run)[size:]] == ["opened"]


def test_more_trials_go_on_where_a_finished_study_ended(tmp_path: Path) -> None:
    run = tmp_path / "run"
    go(run, search={"trials": 8})
    first = [event["trials"] for event in events(run, "asked")]
    go(run, search={"trials": 24})
    again = [event["trials"] for event in events(run, "asked")]
    assert again[: len(first)] == first
    at_once = tmp_path / "at-once"
    go(at_once, search={"trials": 24})

    def points(folder: Path) -> list[Any]:
        return [
            (trial["generation"], trial["index"], trial["point"])
            for event in events(folder, "asked")
            for trial in event["trials"]
            if trial["kind"] == "trial"
        ]

    assert points(run) == points(at_once)
    assert len(points(run)) == 24
    assert [e["fitness"] for e in events(run, "told")] == [
        e["fitness"] for e in events(at_once, "told")
    ]
    assert set(paid(run).values()) == {1}
    verdicts = [json.loads((folder / "verdict.json").read_text()) for folder in (run, at_once)]
    assert verdicts[0]["winner"]["digest"] == verdicts[1]["winner"]["digest"]
    assert verdicts[0]["improvement_shown"] == verdicts[1]["improvement_shown"]


def test_more_trials_that_change_nothing_are_done_too_even_if_killed_before_the_verdict(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    first = go(run, search={"trials": 16})
    more = {"trials": 20}  # one generation more
    again = go(run, search=more)
    assert Record.from_events(parse_all(events(run))).phase == "done"
    assert summary(Record.from_events(parse_all(events(run))))["wanted"] == 20
    journal = run / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    ended = max(i for i, line in enumerate(lines) if b'"search_ended"' in line)
    journal.write_bytes(b"".join(lines[: ended + 1]))
    assert Record.from_events(parse_all(events(run))).phase != "done"
    assert go(run, search=more) == again
    assert Record.from_events(parse_all(events(run))).phase == "done"
    assert first.keys() == again.keys()


def test_fewer_trials_leave_a_finished_study_as_it_is(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert go(run, search={"trials": 16}) == go(run, search={"trials": 4})


def test_a_resumed_study_may_differ_in_resources_and_output(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = go(run, output={"save_model": False})
    assert not (run / "best" / "model").exists()
    assert first["reproduce"] is None  # there is no model to run it with
    second = go(run, workers={"count": 1, "threads": 2}, output={"save_model": True})
    assert (run / "best" / "model").is_dir()
    assert f"pretrained={run / 'best' / 'model'}," in second["reproduce"]
    assert {
        **first,
        "reproduce": second["reproduce"],
    } == second  # no command for a model that is not there


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"search": {"seed": 2}}, "search.seed was 1, now 2"),
        ({"search": {"population": 5}}, "search.population was 4, now 5"),
        ({"evaluate": {"items": {"per_generation": 11}}}, "per_generation was 12, now 11"),
        ({"models": ["one", "three"]}, r"study\.models\[1\] was two, now three"),
        ({"output": {"dtype": "float32"}}, "output.dtype was bfloat16, now float32"),
    ],
)
def test_another_study_in_the_same_folder_is_refused_and_the_key_named(
    stub_workers: StubWorkers, tmp_path: Path, sections: dict[str, Any], key: str
) -> None:
    run = tmp_path / "run"
    go(run, search={"trials": 4})
    stub_workers(broken=True)  # told before any worker is needed
    for trials in (4, 8):
        changed = stub_config(**sections)
        search = dataclasses.replace(changed.search, trials=trials)
        with pytest.raises(UserError, match=key):
            Study(dataclasses.replace(changed, search=search), run).confirm()


def test_changed_weights_of_a_parent_are_refused_and_the_model_named(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    go(run, search={"trials": 4})
    stub_workers(fingerprint="changed", fingerprint_of="two")
    with pytest.raises(UserError, match=r"a parent's weights changed.*two was two, now twochanged"):
        go(run, search={"trials": 8})
    stub_workers()
    go(run, search={"trials": 8})


def test_a_journal_of_another_optimizer_version_is_refused_with_the_trial_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    go(run, search={"trials": 8})
    from evomerge.optimizers.evolution.catcma import CatCma

    ask = CatCma.ask
    monkeypatch.setattr(CatCma, "ask", lambda self: ask(self)[::-1])
    with pytest.raises(UserError, match="generation 0, trial 0 is not the recipe in the journal"):
        go(run, search={"trials": 12})


def test_a_torn_tail_is_cut_off_and_a_damaged_journal_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    go(run, search={"trials": 4})
    whole = substance(run)
    journal = run / JOURNAL
    data = journal.read_bytes()
    lines = data.splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-2]) + lines[-2][:40])
    go(run, search={"trials": 4})
    assert substance(run) == whole
    journal.write_bytes(data[:500] + b"#" + data[501:])
    with pytest.raises(UserError, match=r"journal\.log is damaged at byte"):
        go(run, search={"trials": 4})
    assert journal.read_bytes() == data[:500] + b"#" + data[501:]


def test_two_drivers_at_once_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    refusals = []

    def second(*_: Any) -> None:
        if not refusals:
            with pytest.raises(UserError, match="in use by process") as caught:
                go(run)
            refusals.append(str(caught.value))

    Study(stub_config(), run, second).confirm()
    assert refusals
    assert set(paid(run).values()) == {1}
