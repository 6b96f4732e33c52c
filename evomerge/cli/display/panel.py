"""Draws the live view of a study in a terminal: phase, trials, best, speed, time."""

from __future__ import annotations

from typing import Any

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from evomerge.core.terminal import printable
from evomerge.report import Pace, summary
from evomerge.report.numbers import duration, percent
from evomerge.report.status import (
    Driver,
    baseline_text,
    failures_text,
    leader_text,
    not_running_text,
    phase_text,
)
from evomerge.study.journal.record import Record


def panel(
    record: Record,
    pace: Pace,
    wanted: int | None,
    deadline: float | None,
    driver: Driver | None = None,
) -> Table:
    """Return a grid of names and values.

    Args:
        record: The study so far.
        pace: Has listened to the same events.
        wanted: How many trials are asked for.
        deadline: How many seconds the session may last.
        driver: Who runs the study; ``None`` for this process.
    """
    s = summary(record)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    table.add_row("phase", phase_text(s))
    table.add_row("trials", _trials(s["searched"], wanted))
    if s["leader"]:
        table.add_row("best", _text(leader_text(s["leader"])))
    if s["baseline"]:
        table.add_row("anchors", _text(baseline_text(s["baseline"])))
    table.add_row("speed", _text(speed(record, pace)))
    table.add_row("failures", _text(failures_text(s["failures"])))
    for warning in record.warnings[-2:]:
        table.add_row("warning", _text(warning.message, style="yellow"))
    ends = None if record.phase in ("race", "verdict", "done") else wanted
    if driver is not None and not driver.running:  # no clock runs
        table.add_row("time", _text(not_running_text(driver), style="yellow"))
    else:
        table.add_row("time", Text(_time(pace, ends, deadline, _workers(record))))
    return table


def _text(text: str, style: str = "") -> Text:
    """Return a journal's text without control characters, which a terminal would obey."""
    return Text(printable(text), style=style)


def speed(record: Record, pace: Pace) -> str:
    """Return trials and items per second, and the share of worker time in the forward pass."""
    rates = [(pace.trials_per_second, "trials/s"), (pace.items_per_second, "items/s")]
    parts = [f"{_rate(rate)} {unit}" for rate, unit in rates if rate is not None]
    total = record.seconds["total"]
    if total:
        parts.append(f"{percent(record.seconds['forward'] / total)} of worker time in the model")
    return ", ".join(parts) or "not known yet"


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.2g}"


def _trials(done: int, wanted: int | None) -> Any:
    if not wanted:
        return f"{done:,}"
    row = Table.grid(padding=(0, 2))
    row.add_row(ProgressBar(total=wanted, completed=done, width=30), f"{done:,} of {wanted:,}")
    return row


def _time(pace: Pace, wanted: int | None, deadline: float | None, workers: int) -> str:
    parts = [] if pace.elapsed is None else [f"{duration(pace.elapsed)} elapsed"]
    left = pace.seconds_left(wanted)
    if left:
        parts.append(
            f"about {duration(left)} of search left ({duration(left * workers)} of workers' time), "
            "then race and verdict"
        )
    until = pace.until_deadline(deadline)
    if until is not None:
        parts.append(f"deadline in {duration(until)}")
    return ", ".join(parts) or "not begun"


def _workers(record: Record) -> int:
    count: int = record.config.get("workers", {}).get("count", 1)
    return count
