"""Race and verdict are priced by what metric items cost, by a clock that the test turns."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from evomerge.study.journal.events import Items, OpenedEvent, WarningEvent
from evomerge.study.journal.record import Record
from evomerge.study.study import Study
from evomerge.study.workers import durations
from evomerge.study.workers.durations import FINAL_RECIPES, MARGIN, final_seconds, out_of_time
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

    monkeypatch.setattr(durations, "final_seconds", reserve)
    monkeypatch.setattr(durations, "time", clock)
    study = Study(stub_config(search={"deadline": "60s", "trials": 400}), tmp_path / "run")
    monkeypatch.setattr("evomerge.study.study.time", clock)
    study.optimize()
    # 60 s less 25 s: a generation begins at 0, 10, 20 and 30 s, as the clock reads after asking.
    assert events(tmp_path / "run", "search_ended")[0]["reason"] == "deadline"
    assert clock.now == 40.0


class Spent(Record):
    """A study that has run for a while, and whose race and verdict cost nothing."""

    @property
    def pools(self) -> Mapping[str, Items]:
        return {"race": {}, "holdout": {}}


def test_money_ends_a_search_where_the_deadline_does_not() -> None:
    config = stub_config(
        search={"deadline": "8h", "max_cost": 6.0},
        workers={"count": 2, "price_per_hour": 1.5},  # so 2 h of both workers are paid for
    )
    record, now = Spent(), time.monotonic()
    assert config.cost(7200) == pytest.approx(6.0)
    for seconds, reason in ((0.0, None), (7199.0, None), (7201.0, "cost")):
        record.run_seconds = seconds
        assert out_of_time(config, record, began=now, workers=2) == reason
    record.run_seconds = 0.0
    assert out_of_time(config, record, began=now - 8 * 3600 - 1, workers=2) == "deadline"


def test_a_record_counts_the_time_of_its_sessions_and_not_between_them() -> None:
    record = Record()
    for opened, last in ((100.0, 130.0), (1000.0, 1005.0)):
        record.apply(OpenedEvent(time=opened))
        record.apply(WarningEvent(kind="k", message="m", time=last))
    assert record.run_seconds == 35.0
