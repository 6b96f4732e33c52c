"""Draws heat maps: cells coloured by value, a row per model and a column per run of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from evomerge.report.charts.layout import WIDTH, is_narrow
from evomerge.report.charts.svg import Figure, Scale, text_width
from evomerge.report.numbers import number

_LABEL, _NARROW_LABEL = 190.0, 92.0


@dataclass(frozen=True)
class Band:
    """Columns of a heat map that are alike: a label, and how many layers it stands for."""

    label: str
    layers: int = 1
    outside: bool = False


def heat_map(
    rows: Sequence[str],
    bands: Sequence[Band],
    values: Sequence[Sequence[float | None]],
    ends: tuple[float, float],
    aria: str,
    key: bool = True,
    width: float = WIDTH,
    label: float = _LABEL,
    unit: str = "",
) -> Markup:
    """Draw cells coloured by value: rows of names over bands of layers, the colour key below.

    Args:
        rows: Names from top to bottom.
        bands: Columns from left to right; wider where they stand for more layers.
        values: One row per name, one value per band; ``None`` stays empty.
        ends: Values with the full colours; (-x, x) makes 0 the neutral one.
        aria: What the figure shows, for readers that can't see it.
        key: Whether to draw the colour key.
        width: The figure's width in pixels.
        label: Room for the rows' names, on a wide page.
        unit: Stands behind each value.
    """
    hovers = not is_narrow(width)  # nobody hovers on a phone
    if not hovers:
        label = _NARROW_LABEL if label == _LABEL else 0.5 * width
    height = 30.0
    gap = 8.0 if any(b.outside for b in bands) and not all(b.outside for b in bands) else 0.0
    gaps = sum(gap for a, b in pairwise(bands) if a.outside != b.outside)
    room = width - label - gaps
    per_layer = min(room / sum(b.layers for b in bands), 110.0)
    least = min(46.0, room / len(bands))
    widths = [max(b.layers * per_layer, least) for b in bands]
    widths = [w * min(1.0, room / sum(widths)) for w in widths]
    bottom = 8 + height * len(rows)
    figure = Figure(width, bottom + (74 if key else 38), aria)
    x, every = label, max(1, round(34 * len(bands) / sum(widths)))
    for j, (band, wide) in enumerate(zip(bands, widths, strict=True)):
        if j and band.outside != bands[j - 1].outside:
            x += gap
        for i, row in enumerate(rows):
            value = values[i][j]
            tip = f"{row}, {_where(band)}: {number(value)}{unit}" if hovers else ""
            _cell(figure, (x, 8 + height * i, wide, height), value, ends, tip)
        if band.outside or j % every == 0:
            half = text_width(band.label) / 2
            middle = min(x + wide / 2, width - half)  # the last one stays within the figure
            figure.text(middle, bottom + 16, band.label, "tick", "middle")
        x += wide
    for i, row in enumerate(rows):
        figure.text(label - 8, 8 + height * (i + 0.5) + 4, row, "", "end", label - 10)
    layers = [w for b, w in zip(bands, widths, strict=True) if not b.outside]
    if layers:
        first = label + sum(w for b, w in zip(bands, widths, strict=True) if _leads(b, bands))
        first += gap if bands[0].outside else 0.0
        figure.text(first + sum(layers) / 2, bottom + 34, "layer", "axis", "middle")
    if key:
        _key(figure, bottom + 48, ends, label, unit)
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
    kind = "cell p" if share >= 0 else "cell n"
    figure.rect(x + 0.75, y + 0.75, width - 1.5, height - 1.5, kind, tip, _amount(share))
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


def _amount(share: float) -> str:
    """Return how much of the end's colour a cell has, for the page's style."""
    return f"--v:{100 * abs(share):.0f}%"


def _key(figure: Figure, y: float, ends: tuple[float, float], left: float, unit: str) -> None:
    low, high = ends
    steps = min(44, int((figure.width - left - 30) / 5))  # half a label's room at the right
    at = Scale(low, high, left, left + 5 * steps)
    for k in range(steps):
        value = low + (high - low) * (k + 0.5) / steps
        share = _share(value, ends)
        figure.rect(at.start + 5 * k, y, 5.3, 10, "p" if share >= 0 else "n", "", _amount(share))
    for value in dict.fromkeys((low, 0.0, high)):
        figure.text(at(value), y + 24, f"{value:.3g}".replace("-", "−") + unit, "tick", "middle")
