from dataclasses import replace

import pytest

from evomerge.report import Pace
from evomerge.study.journal.codec import parse_all
from evomerge.study.journal.events import HeaderEvent, ToldEvent
from evomerge.study.journal.record import Record
from tests.report import report_bench as bench


def listened(events, now=1100.0, **settings):
    pace, record = Pace(now=lambda: now, **settings), Record()
    for event in parse_all(events):
        record.apply(event)
        pace.apply(event, record)
    return pace, record


def upto(name, count):
    events, seen = bench.events(), 0
    for i, event in enumerate(events):
        seen += event["event"] == name
        if seen == count:
            return events[: i + 1]
    raise AssertionError(name)


def moved(events, name, *times):
    left = list(times)
    return [{**e, "time": left.pop(0)} if e["event"] == name else e for e in events]


def test_trials_per_second_are_those_of_the_search_and_stop_with_it():
    # the search begins when generation 0 is asked, at 1002 (the bench asks all at 1002)
    events = moved(bench.events(), "told", 1042.0, 1082.0)
    pace, _ = listened(events)
    assert pace.trials_per_second == pytest.approx(4 / 80)
    assert pace.seconds_left(10) == pytest.approx(6 / (4 / 80))
    assert pace.seconds_left(4) == 0


def test_items_per_second_leave_out_the_delivery_that_starts_the_clock():
    events = upto("outcomes", 3)  # 3 items at 1010, 3 at 1030, 3 at 1014: times as they came
    events = moved(events, "outcomes", 1010.0, 1014.0, 1020.0)
    pace, _ = listened(events)
    assert pace.items_per_second == pytest.approx(6 / 10)


def test_a_resumed_study_has_the_speed_of_its_last_session():
    half = moved(upto("told", 1), "told", 1042.0)
    again = {"event": "opened", "token": "u", "pid": 2, "host": "h", "time": 2000.0}
    rest = bench.events()[len(half) :]
    asked = {**next(e for e in rest if e["event"] == "asked"), "time": 2010.0}
    result = {**next(e for e in rest if e["event"] == "told"), "time": 2030.0}
    pace, _ = listened([*half, again, asked, result], now=2060.0)
    assert pace.elapsed == 60.0
    assert pace.trials_per_second == pytest.approx(2 / 20)
    assert pace.until_deadline(100.0) == 40.0
    assert pace.until_deadline(30.0) == 0.0


def test_a_listener_that_comes_late_counts_only_what_it_saw():
    half = upto("told", 1)
    record = Record.from_events(parse_all(half))
    pace = Pace(2000.0, now=lambda: 2000.0)
    for event in parse_all(bench.events()[len(half) :]):
        later = replace(event, time=event.time + 1000)
        record.apply(later)
        pace.apply(later, record)
        if isinstance(event, ToldEvent):
            break
    assert pace.trials_per_second is not None
    assert pace.seconds_left(5) == pytest.approx(1 / pace.trials_per_second)


def test_nothing_is_known_before_anything_happened():
    pace = Pace(now=lambda: 5.0)
    assert pace.elapsed is None
    assert pace.trials_per_second is None
    assert pace.items_per_second is None
    assert pace.seconds_left(3) is None
    assert pace.until_deadline(3.0) is None
    pace.apply(HeaderEvent(format=1), Record())
    assert pace.last is None
