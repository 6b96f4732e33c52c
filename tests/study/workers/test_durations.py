"""Race and verdict are priced by what metric items cost, by a clock that the test turns."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.study.journal.record import Record
from evomerge.study.phases import search
from evomerge.study.study import Study
from evomerge.study.workers.durations import FINAL_RECIPES, MARGIN, final_seconds
from tests.study.small_study import StubWorkers, events, stub_config


def test_metric_items_are_priced_by_metric_seconds_however_few_they_are() -> None:
    # 10,000 smooth items at 1 ms, 50 metric items at 40 ms; the mean would be 1.2 ms.
    paid = {"smooth": (10.0, 10_000), "metric": (2.0, 50)}
    assert final_seconds(paid, 200, 4) == pytest.approx(MARGIN * FINAL_RECIPES * 200 * 0.04 / 4)
    assert final_seconds({}, 200, 4) == 0.0


class Clock:
    """Stands still until the search asks for the time; then an hour has passed since it began."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_a_search_ends_when_only_the_time_for_race_and_verdict_is_left(
    stub_workers: StubWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del stub_workers
    whole = Study(stub_config(), tmp_path / "whole")
    whole.optimize(4)
    record: Record = whole.record
    assert set(record.paid) == {"smooth", "metric"}
    assert sum(items for _, items in record.paid.values()) == record.item_evaluations
    clock = Clock()
    asked: list[float] = []

    def reserve(_paid: object, _items: int, _workers: int) -> float:
        asked.append(clock.now)
        clock.now += 10.0  # each generation takes ten seconds
        return 25.0

    monkeypatch.setattr(search, "final_seconds", reserve)
    monkeypatch.setattr(search, "time", clock)
    study = Study(stub_config(search={"deadline": "60s", "trials": 400}), tmp_path / "run")
    monkeypatch.setattr("evomerge.study.study.time", clock)
    study.optimize()
    # 60 s less 25 s: a generation begins at 0, 10, 20 and 30 s, as the clock reads after asking.
    assert events(tmp_path / "run", "search_ended")[0]["reason"] == "deadline"
    assert clock.now == 40.0
