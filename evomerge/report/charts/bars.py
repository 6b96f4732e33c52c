"""Draws rows of bars from 0, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from evomerge.report.charts.layout import WIDTH, is_narrow
from evomerge.report.charts.svg import Figure, scale, ticks
from evomerge.report.numbers import number

_LABEL = 190.0


@dataclass(frozen=True)
class Bar:
    """A value with the half-width of its interval; `kind` is its CSS class."""

    value: float
    half: float
    kind: str
    tip: str


def bars(
    rows: Sequence[tuple[str, bool, Sequence[Bar]]], name: str, aria: str, width: float = WIDTH
) -> Markup:
    """Draw rows of bars from 0, each with its interval; `True` marks a row as ours."""
    thick, space = 13.0, 9.0
    narrow = is_narrow(width)
    head = 17.0 if narrow else 0.0  # the label stands above its bars
    left_end, right_end = (12.0, width - 46) if narrow else (_LABEL, width - 70)
    heights = [head + max(1, len(group)) * thick + space for _, _, group in rows]
    bottom = 12 + sum(heights)
    figure = Figure(width, bottom + 46, aria)
    ends = [v for _, _, group in rows for b in group for v in (b.value - b.half, b.value + b.half)]
    count = 4 if narrow else 6
    at = scale([*ends, 0.0], left_end, right_end, count)
    figure.x_axis(at, bottom, 6, ticks(at.low, at.high, count), name)
    y = 12.0
    for (label, ours, group), height in zip(rows, heights, strict=True):
        kind = "strong" if ours else ""
        if narrow:
            figure.text(12, y + 12, label, f"{kind} over", "start", width - 12)
        else:
            figure.text(_LABEL - 12, y + (height - space) / 2 + 4, label, kind, "end", 174)
        for i, bar in enumerate(group):
            top = y + head + i * thick
            left, end = sorted((at(0), at(bar.value)))
            figure.rect(left, top, end - left, thick - 2, bar.kind, f"{label}: {bar.tip}")
            edge = at(bar.value + bar.half)
            if bar.half:
                centre = top + (thick - 2) / 2
                figure.rule(at(bar.value - bar.half), centre, edge, centre, "whisker ink")
            figure.text(max(edge, at(0)) + 7, top + 9.5, number(bar.value), "value small")
        y += height
    figure.rule(at(0), 6, at(0), bottom, "zero")
    return figure.markup()
