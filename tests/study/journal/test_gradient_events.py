"""Gradients in a journal: their lengths are checked, their cost counted, told ones dropped."""

from __future__ import annotations

from typing import Any

import pytest

from evomerge.study.journal.codec import parse_all
from evomerge.study.journal.event_check import EventCheck
from evomerge.study.journal.record import Record
from tests.report import report_bench as bench

Event = dict[str, Any]


def with_gradients(
    gradient: list[float], gradients: list[list[float] | None] | None
) -> list[Event]:
    """The bench's events; the search's first outcomes and the first told are changed."""
    events = [dict(event) for event in bench.events()]
    outcomes = next(
        e
        for e in events
        if e["event"] == "outcomes" and e["phase"] == "search" and e["mode"] == "smooth"
    )
    outcomes |= {"gradient": gradient, "loss": 0.5}
    learned = next(event for event in events if event["event"] == "told")
    learned["gradients"] = gradients
    return events


def faults(events: list[Event]) -> list[str]:
    check = EventCheck()
    return [fault for event in events if (fault := check.fault(event)) is not None]


@pytest.fixture
def n_dimensions() -> int:
    study = next(event for event in bench.events() if event["event"] == "study")
    return len(study["dimensions"])


@pytest.fixture
def n_told() -> int:
    return len(next(event for event in bench.events() if event["event"] == "told")["trials"])


def test_gradients_of_the_right_length_pass(n_dimensions: int, n_told: int) -> None:
    good = [0.1] * n_dimensions
    assert not faults(with_gradients(good, [None, *[good] * (n_told - 1)]))


def test_gradients_of_another_length_are_refused(n_dimensions: int, n_told: int) -> None:
    good, short = [0.1] * n_dimensions, [0.1] * (n_dimensions - 1)
    words = f"expected {n_dimensions} numbers, one a dimension"
    assert faults(with_gradients(short, None)) == [f".gradient: {words}"]
    assert faults(with_gradients(good, [short] * n_told)) == [f".gradients: {words}"]
    assert faults(with_gradients(good, [good] * (n_told + 1))) == [
        f".gradients: expected {n_told} values, one for each trial"
    ]


def test_a_gradient_costs_three_evaluations_an_item(n_dimensions: int) -> None:
    plain = Record.from_events(parse_all(iter(bench.events())))
    events = with_gradients([0.1] * n_dimensions, None)
    dear = Record.from_events(parse_all(iter(events)))
    rows = next(len(e["rows"]) for e in events if e.get("gradient"))
    assert dear.item_evaluations == plain.item_evaluations + 2 * rows
    assert dear.paid["gradient"][1] == 3 * rows


def test_gradients_are_found_by_recipe_and_items_until_they_are_told(n_dimensions: int) -> None:
    events = with_gradients([0.1] * n_dimensions, None)
    at = next(i for i, event in enumerate(events) if event.get("gradient"))
    outcomes = events[at]
    items: dict[str, list[int]] = {}
    for row in outcomes["rows"]:
        items.setdefault(row[0], []).append(row[1])
    record = Record.from_events(parse_all(iter(events[: at + 1])))
    assert record.gradients.of(outcomes["digest"], items) == [0.1] * n_dimensions
    assert record.gradients.of("another", items) is None
    assert record.gradients.of(outcomes["digest"], {next(iter(items)): [10**6]}) is None
    position = next(i for i, event in enumerate(events) if event["event"] == "told")
    record = Record.from_events(parse_all(iter(events[: position + 1])))
    assert record.gradients.of(outcomes["digest"], items) is None
