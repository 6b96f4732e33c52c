"""Draws differences with their intervals, one row each: a forest plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from evomerge.report.charts.layout import WIDTH, is_narrow
from evomerge.report.charts.svg import Figure, scale, text_width, ticks
from evomerge.report.numbers import number, signed_interval

ROW, _NARROW_ROW = 26.0, 42.0
_LABEL = 190.0


@dataclass(frozen=True)
class Gap:
    """A difference with its interval (``low`` is ``None`` if it has none) and a note.

    `strong` rows are what the verdict rests on: they are drawn in colour.
    """

    label: str
    difference: float
    low: float | None
    high: float | None
    note: str = ""
    strong: bool = False

    @property
    def text(self) -> str:
        """The difference and its interval, as everywhere."""
        if self.low is None or self.high is None:
            return number(self.difference, sign=True)
        return signed_interval(self.difference, self.low, self.high)


def differences(rows: Sequence[Gap], name: str, aria: str, width: float = WIDTH) -> Markup:
    """Draw a forest plot: per row a square with its interval, a line at 0, numbers at the right.

    Where there is little room, label and numbers stand above the interval.
    """
    narrow = is_narrow(width)
    note_room = 0.0 if narrow else max((text_width(row.note) for row in rows), default=0.0)
    left, right, step = _LABEL, width - 200 - (min(note_room, 260.0) + 18 if note_room else 0), ROW
    if narrow:
        left, right, step = 18.0, width - 18, _NARROW_ROW
    bottom = 14 + step * len(rows)
    figure = Figure(width, bottom + 46, aria)
    ends = [v for r in rows for v in (r.low, r.high, r.difference, 0.0) if v is not None]
    count = 4 if narrow else 6
    at = scale(ends, left, right, count)
    shown = "right of 0: ours is better" if narrow and "right of 0" in name else name
    figure.x_axis(at, bottom, 6, ticks(at.low, at.high, count), shown)
    figure.rule(at(0), 6, at(0), bottom, "zero")
    for i, row in enumerate(rows):
        y = 14 + step * (i + 0.5) + (9 if narrow else 0)
        kind, weight = ("s1", "strong") if row.strong else ("s5", "")
        if narrow:
            figure.text(0, y - 14, row.label, f"{weight} over", "start", width - 160)
            figure.text(width, y - 14, row.text, f"value {weight} over", "end")
        else:
            figure.text(_LABEL - 12, y + 4, row.label, weight, "end", 174)
            figure.text(right + 14, y + 4, row.text, f"value {weight}")
        if row.low is not None and row.high is not None:
            figure.rule(at(row.low), y, at(row.high), y, f"whisker {kind}")
        tip = f"{row.label}: {row.text}" + (f"; {row.note}" if row.note else "")
        figure.dot(at(row.difference), y, f"f{kind[1]}", tip, 5 if row.strong else 4, square=True)
        if row.note and not narrow:
            figure.text(width, y + 4, row.note, "tick", "end", 260)
    return figure.markup()
