"""Every kind of event is the same after it was written and read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from evomerge.study.journal.codec import parse, parse_all, to_json
from evomerge.study.journal.event_check import EventCheck
from evomerge.study.journal.events import EVENT_TYPES, StudyEvent, VerdictEvent
from evomerge.study.statistics.verdict import Candidate
from tests.report import report_bench as bench

EVENTS: list[dict[str, Any]] = [
    {"event": "journal", "format": 1},
    *bench.events(),
    {"event": "changed", "differences": ["seed"], "now": {"config": {"search": {}}}, "time": 2.0},
    {"event": "moved", "paths": {"/a": "/b"}, "digests": {"d6": "d7"}, "time": 2.5},
    {
        **{"event": "measured", "kind": "mask", "models": ["zoo/a", "zoo/b"], "statistic": "d8"},
        **{"rows": 40, "item_evaluations": 9600, "seconds": {"total": 2.5}, "time": 2.7},
    },
    {"event": "scored", "trial": 4, "scores": {"quiz": 0.5}, "time": 3.0},
    {"event": "chosen", "trial": 4, "instead_of": 6, "reason": "simpler", "time": 4.0},
    {"event": "warning", "kind": "ray", "message": "lost", "trial": 4, "time": 5.0},
]


def test_each_kind_of_event_is_tried_here() -> None:
    assert {event["event"] for event in EVENTS} == EVENT_TYPES.keys()


@pytest.mark.parametrize("kind", sorted(EVENT_TYPES))
def test_an_event_that_was_read_is_written_as_it_was(kind: str) -> None:
    for document in (each for each in EVENTS if each["event"] == kind):
        event = parse(document)
        assert type(event) is EVENT_TYPES[kind]
        written = json.loads(json.dumps(to_json(event)))
        assert parse(written) == event
        written.pop("dimensions", None)  # the bench's lack fields, as those of an old version
        assert written == {k: v for k, v in document.items() if k != "dimensions"}


def test_parts_of_an_event_are_of_their_own_types() -> None:
    events = list(parse_all(EVENTS))
    study = next(event for event in events if isinstance(event, StudyEvent))
    assert study.dimensions[0].name == "models[left].weight[0]"
    verdict = next(event for event in events if isinstance(event, VerdictEvent))
    assert verdict.winner == Candidate("trial", 6, "d6", "trial 6")
    assert verdict.comparisons[0].difference == 0.3125


def test_an_event_of_a_newer_version_is_passed_over() -> None:
    assert parse({"event": "applauded", "by": "all"}) is None
    assert list(parse_all([{"event": "applauded"}])) == []


def test_what_is_written_passes_the_check_that_reads_journals() -> None:
    check = EventCheck()
    for event in parse_all(bench.events()):
        assert check.fault(json.loads(json.dumps(to_json(event)))) is None
