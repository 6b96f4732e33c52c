"""The batches that outcomes come from are written down, and others are noticed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evomerge.core.errors import UserError
from evomerge.report.page.page import page
from evomerge.report.run import Run
from evomerge.study.config import StudyConfig
from evomerge.study.journal.batches import BatchTable, Probe
from evomerge.study.journal.codec import from_json, parse_all
from evomerge.study.journal.events import OutcomesEvent
from evomerge.study.journal.journal import iterate
from evomerge.study.journal.record import Record
from evomerge.study.study import JOURNAL, Study
from tests.report import report_bench as bench
from tests.study.small_study import StubWorkers, events
from tests.study.small_study import stub_config as small_config


def stub_config() -> StudyConfig:
    """Two generations of candidates in three shards of eight items."""
    return small_config(evaluate={"batch_size": 8}, search={"trials": 8})


def record(run: Path) -> Record:
    return Record.from_events(parse_all(iterate(run / JOURNAL)))


def scored(digest: str, batches: list[tuple[str, int]], halvings: int = 0) -> OutcomesEvent:
    rows = [["one", 3, 1.0, 0.5, 0, 1], ["two", 0, 0.0, 0.1, 0, 1], ["two", 5, 1.0, 0.9, 0, 1]]
    event = bench.outcomes(0, "search", "smooth", rows, 1.0)
    return from_json(
        OutcomesEvent, {**event, "digest": digest, "batches": batches, "halvings": halvings}
    )


def test_each_shard_of_an_event_has_its_own_batches() -> None:
    table = BatchTable()
    table.note(scored("a", [("x", 2), ("y", 1)]))
    shards = [{"one": [3], "two": [0]}, {"two": [5]}, {"one": [3]}]
    assert table.of("a", "smooth", shards) == ("x", "y", None)
    assert table.of("a", "metric", shards[:1]) == (None,)
    assert table.of("b", "smooth", shards[:1]) == (None,)
    assert table.last == Probe("smooth", {"two": [5]}, "y")
    assert table.conflicts == 0
    table.note(scored("b", [("x", 2), ("z", 1)]))
    assert table.of("b", "smooth", shards[:2]) == ("x", "z")
    assert table.conflicts == 1
    table.note(replace(scored("c", []), rows=[]))  # as an earlier version wrote it
    assert table.of("c", "smooth", shards[:1]) == (None,)


def test_a_resumed_run_is_compared_with_scores_of_halved_batches() -> None:
    table = BatchTable()
    table.note(scored("a", [("half", 3)], halvings=1))
    table.note(scored("b", [("whole", 3)]))
    assert table.last is not None
    assert table.last.batches == "half"
    table.note(scored("c", [("quarter", 3)], halvings=2))
    assert table.last.batches == "quarter"


def test_a_reader_sees_that_a_generation_was_scored_in_the_same_batches(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    del stub_workers
    Study(stub_config(), tmp_path / "run").confirm()
    replayed = record(tmp_path / "run")
    assert all(sum(n for _, n in e["batches"]) == len(e["rows"]) for e in
               events(tmp_path / "run", "outcomes"))  # fmt: skip
    for ask in replayed.generations.values():
        (batches,) = {replayed.batches_of(number) for number in ask.trials}
        assert batches is not None
        assert len(batches) == 3  # shards
        assert None not in batches
    assert "scored in the same batches, in all 2 generations" in page(Run.read(tmp_path / "run"))
    assert not [w for w in replayed.warnings if w["kind"] == "batches"]


def test_a_run_is_not_resumed_in_other_batches_unless_that_is_allowed(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    Study(stub_config(), run).optimize(4)
    stub_workers(batches="other")
    with pytest.raises(UserError, match=r"batched differently than when .*--allow-changed"):
        Study(stub_config(), run).optimize(8)
    Study(stub_config(), run, allow_changed=True).optimize(8)
    Study(stub_config(), run).optimize(12)  # that is what this run does from now on
    (changed,) = events(run, "changed")
    assert changed["differences"][0].startswith("batches of 8 items were ")


def test_a_candidate_scored_in_other_batches_than_its_generation_is_warned_of_once(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    Study(stub_config(), run).optimize(8)
    # The journal of a run that a kill stopped in the middle of its second generation.
    lines = (run / JOURNAL).read_bytes().splitlines(keepends=True)
    asked = max(i for i, line in enumerate(lines) if b'"event":"asked"' in line)
    (run / JOURNAL).write_bytes(b"".join(lines[: (asked + len(lines)) // 2]))
    stub_workers(batches="other")
    Study(stub_config(), run, allow_changed=True).optimize(8)
    (warning,) = [w for w in events(run, "warning") if w["kind"] == "batches"]
    assert "scored in different batches than other trials on the same items" in warning["message"]
    assert "In 1 of 2 generations all candidates" in page(Run.read(run))


def test_a_run_that_wrote_no_batches_is_resumed_and_lends_with_a_warning(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers(batches=None)
    Study(stub_config(), tmp_path / "old").optimize(4)
    assert not any("batches" in event for event in events(tmp_path / "old", "outcomes"))
    stub_workers()
    Study(stub_config(), tmp_path / "new", reuse=[tmp_path / "old"]).optimize(4)
    (warning,) = [w for w in events(tmp_path / "new", "warning") if w["kind"] == "batches"]
    assert "(old scored it)" in warning["message"]
    Study(stub_config(), tmp_path / "old").optimize(8)  # resumes


def test_reused_outcomes_of_the_same_batches_are_known_as_such(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    del stub_workers
    Study(stub_config(), tmp_path / "first").optimize()
    Study(stub_config(), tmp_path / "again", reuse=[tmp_path / "first"]).optimize()
    replayed = record(tmp_path / "again")
    assert replayed.reused
    assert not [w for w in replayed.warnings if w["kind"] == "batches"]
    for ask in replayed.generations.values():
        (batches,) = {replayed.batches_of(number) for number in ask.trials}
        assert batches is not None
        assert None not in batches
