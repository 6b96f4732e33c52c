"""Draws the three charts with rows: differences and bars with intervals, and heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from evomerge.report.charts.svg import Figure, Scale, scale, text_width, ticks
from evomerge.report.numbers import interval, number

WIDTH = 1000.0  # px, of a figure that takes the page's whole width
ROW = 26.0
_LABEL = 190.0


@dataclass(frozen=True)
class Gap:
    """A difference with its interval (``low`` is ``None`` if it has none) and a note."""

    label: str
    difference: float
    low: float | None
    high: float | None
    note: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Bar:
    """A value with the half-width of its interval; `kind` is its CSS class."""

    value: float
    half: float
    kind: str
    tip: str


@dataclass(frozen=True)
class Band:
    """Columns of a heat map that are alike: a label, and how many layers it stands for."""

    label: str
    layers: int = 1
    outside: bool = False


def differences(rows: Sequence[Gap], name: str, aria: str) -> Markup:
    """Draw a forest plot: per row a square with its interval, a line at 0, numbers at the right."""
    note_room = max((text_width(row.note) for row in rows), default=0.0)
    right = WIDTH - 200 - (min(note_room, 260.0) + 18 if note_room else 0)
    bottom = 14 + ROW * len(rows)
    figure = Figure(WIDTH, bottom + 46, aria)
    ends = [v for r in rows for v in (r.low, r.high, r.difference, 0.0) if v is not None]
    at = scale(ends, _LABEL, right, 6)
    figure.x_axis(at, bottom, 6, ticks(at.low, at.high, 6), name)
    figure.rule(at(0), 6, at(0), bottom, "zero")
    for i, row in enumerate(rows):
        y = 14 + ROW * (i + 0.5)
        kind = "s1" if row.strong else "s5"
        figure.text(_LABEL - 12, y + 4, row.label, "strong" if row.strong else "", "end", 174)
        said = number(row.difference, sign=True)
        if row.low is not None and row.high is not None:
            figure.rule(at(row.low), y, at(row.high), y, f"whisker {kind}")
            said += f" ({interval(row.low, row.high)})"
        tip = f"{row.label}: {said}"
        figure.dot(at(row.difference), y, f"f{kind[1]}", tip, 5 if row.strong else 4, square=True)
        figure.text(right + 14, y + 4, said, "value strong" if row.strong else "value")
        if row.note:
            figure.text(WIDTH, y + 4, row.note, "tick", "end", 260)
    return figure.markup()


def bars(rows: Sequence[tuple[str, bool, Sequence[Bar]]], name: str, aria: str) -> Markup:
    """Draw rows of bars from 0, each with its interval; `True` marks a row as ours."""
    thick, space = 13.0, 9.0
    heights = [max(1, len(group)) * thick + space for _, _, group in rows]
    bottom = 12 + sum(heights)
    figure = Figure(WIDTH, bottom + 46, aria)
    ends = [v for _, _, group in rows for b in group for v in (b.value - b.half, b.value + b.half)]
    at = scale([*ends, 0.0], _LABEL, WIDTH - 70, 6)
    figure.x_axis(at, bottom, 6, ticks(at.low, at.high, 6), name)
    y = 12.0
    for (label, ours, group), height in zip(rows, heights, strict=True):
        middle = y + (height - space) / 2
        figure.text(_LABEL - 12, middle + 4, label, "strong" if ours else "", "end", 174)
        for i, bar in enumerate(group):
            top = y + i * thick
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


def heat_map(
    rows: Sequence[str],
    bands: Sequence[Band],
    values: Sequence[Sequence[float | None]],
    ends: tuple[float, float],
    aria: str,
    key: bool = True,
) -> Markup:
    """Draw cells coloured by value: rows of names over bands of layers, the colour key below.

    Args:
        rows: Names from top to bottom.
        bands: Columns from left to right; wider where they stand for more layers.
        values: One row per name, one value per band; ``None`` stays empty.
        ends: Values with the full colours; (-x, x) makes 0 the neutral one.
        aria: What the figure shows, for readers that can't see it.
        key: Whether to draw the colour key.
    """
    height = 30.0
    gap = 8.0 if any(b.outside for b in bands) and not all(b.outside for b in bands) else 0.0
    gaps = sum(gap for a, b in pairwise(bands) if a.outside != b.outside)
    room = WIDTH - _LABEL - gaps
    unit = min(room / sum(b.layers for b in bands), 110.0)
    least = min(46.0, room / len(bands))
    widths = [max(b.layers * unit, least) for b in bands]
    widths = [w * min(1.0, room / sum(widths)) for w in widths]
    bottom = 8 + height * len(rows)
    figure = Figure(WIDTH, bottom + (74 if key else 38), aria)
    x, every = _LABEL, max(1, round(34 * len(bands) / sum(widths)))
    for j, (band, width) in enumerate(zip(bands, widths, strict=True)):
        if j and band.outside != bands[j - 1].outside:
            x += gap
        for i, row in enumerate(rows):
            value = values[i][j]
            tip = f"{row}, {_where(band)}: {number(value)}"
            _cell(figure, (x, 8 + height * i, width, height), value, ends, tip)
        if band.outside or j % every == 0:
            figure.text(x + width / 2, bottom + 16, band.label, "tick", "middle")
        x += width
    for i, row in enumerate(rows):
        figure.text(_LABEL - 12, 8 + height * (i + 0.5) + 4, row, "", "end", 174)
    layers = [w for b, w in zip(bands, widths, strict=True) if not b.outside]
    if layers:
        first = _LABEL + sum(w for b, w in zip(bands, widths, strict=True) if _leads(b, bands))
        first += gap if bands[0].outside else 0.0
        figure.text(first + sum(layers) / 2, bottom + 34, "layer", "axis", "middle")
    if key:
        _key(figure, bottom + 48, ends)
    return figure.markup()


def _leads(band: Band, bands: Sequence[Band]) -> bool:
    """Return whether a band lies outside the stack and before it."""
    inside = next(i for i, b in enumerate(bands) if not b.outside)
    return any(band is b for b in bands[:inside])


def _where(band: Band) -> str:
    if band.outside:
        return band.label
    return f"layers {band.label}" if band.layers > 1 else f"layer {band.label}"


def _cell(
    figure: Figure,
    box: tuple[float, float, float, float],
    value: float | None,
    ends: tuple[float, float],
    tip: str,
) -> None:
    x, y, width, height = box
    if value is None:
        figure.rect(x + 0.75, y + 0.75, width - 1.5, height - 1.5, "cell none", tip)
        return
    share = _share(value, ends)
    figure.rect(x + 0.75, y + 0.75, width - 1.5, height - 1.5, "cell", tip, _colour(share))
    if width >= 34:
        kind = "in high" if abs(share) > 0.72 else "in mid" if abs(share) > 0.55 else "in"
        text = f"{value:.2f}".replace("-", "−")
        figure.text(x + width / 2, y + height / 2 + 4, text, kind, "middle")


def _share(value: float, ends: tuple[float, float]) -> float:
    """Place a value on the colour scale: 0 neutral, 1 the warm end, -1 the cold end."""
    low, high = ends
    if low < 0:
        return max(-1.0, min(1.0, value / high))
    return max(0.0, min(1.0, (value - low) / (high - low)))


def _colour(share: float) -> str:
    end = "var(--plus)" if share >= 0 else "var(--minus)"
    return f"color-mix(in oklab,{end} {100 * abs(share):.0f}%,var(--neutral))"


def _key(figure: Figure, y: float, ends: tuple[float, float]) -> None:
    low, high = ends
    at = Scale(low, high, _LABEL, _LABEL + 220)
    steps = 44
    for k in range(steps):
        value = low + (high - low) * (k + 0.5) / steps
        figure.rect(at.start + 5 * k, y, 5.3, 10, "", fill=_colour(_share(value, ends)))
    for value in dict.fromkeys((low, 0.0, high)):
        figure.text(at(value), y + 24, f"{value:g}".replace("-", "−"), "tick", "middle")
