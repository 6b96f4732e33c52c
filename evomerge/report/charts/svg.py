"""Draws inline SVG: shapes, scales, axes. Colours are the page's CSS classes."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from markupsafe import Markup, escape

FONT = 12.0  # px, as in the page's style sheet


@dataclass(frozen=True)
class Scale:
    """A linear map of [low, high] onto pixels [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the pixel of a value.

        >>> Scale(0, 2, 100, 200)(0.5)
        125.0
        """
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def scale(values: Iterable[float], start: float, end: float, count: int = 5) -> Scale:
    """Return a scale whose ends are round numbers around all values."""
    known = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(known), max(known)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    for _ in range(3):  # rounding the ends may ask for a larger step, as `ticks` will
        step = _step(low, high, count)
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return Scale(low, high, start, end)


def ticks(low: float, high: float, count: int = 5, whole: bool = False) -> list[tuple[float, str]]:
    """Return round numbers in [low, high], each with its label; about `count` of them.

    >>> ticks(0.88, 0.92, 4)
    [(0.88, '0.88'), (0.89, '0.89'), (0.9, '0.90'), (0.91, '0.91'), (0.92, '0.92')]
    >>> [label for _, label in ticks(-3, 3, 3)]
    ['−2', '0', '2']
    """
    step = _step(low, high, count)
    step = max(1.0, step) if whole else step
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first = math.ceil(low / step - 1e-6)
    values = [i * step for i in range(first, math.floor(high / step + 1e-6) + 1)]
    return [
        (round(v, digits + 2), f"{round(v, digits) + 0.0:,.{digits}f}".replace("-", "−"))
        for v in values
    ]


class Figure:
    """One drawing: shapes are added in pixels, y pointing down, and written out by `markup`."""

    def __init__(self, width: float, height: float, label: str):
        self.width, self.height, self.label = width, height, label
        self._parts: list[str] = []

    def line(self, points: Sequence[tuple[float, float]], kind: str, tip: str = "") -> None:
        """Draw a line through all points."""
        path = " ".join(f"{_px(x)},{_px(y)}" for x, y in points)
        self._parts.append(f'<polyline class="line {kind}" points="{path}"{_with(tip, "polyline")}')

    def rule(self, x1: float, y1: float, x2: float, y2: float, kind: str = "grid") -> None:
        """Draw a straight line."""
        ends = f'x1="{_px(x1)}" y1="{_px(y1)}" x2="{_px(x2)}" y2="{_px(y2)}"'
        self._parts.append(f'<line class="{kind}" {ends}/>')

    def dot(
        self,
        x: float,
        y: float,
        kind: str,
        tip: str = "",
        size: float = 3.5,
        square: bool = False,
        trial: int | None = None,
    ) -> None:
        """Draw a point: round, or square, so that two kinds differ by more than their colour.

        With `trial` the page shows that trial's row of the table beside the tip.
        """
        if square:
            self.rect(x - size, y - size, 2 * size, 2 * size, f"{kind} at", tip, trial=trial)
            return
        geometry = f'cx="{_px(x)}" cy="{_px(y)}" r="{_px(size)}"'
        which = "" if trial is None else f' data-trial="{trial}"'
        self._parts.append(f'<circle class="{kind}" {geometry}{which}{_with(tip, "circle")}')

    def specks(self, points: Iterable[tuple[float, float]], kind: str) -> None:
        """Draw many points without tips as one path; their size is the class's stroke width."""
        path = "".join(f"M{_px(x)} {_px(y)}h0" for x, y in points)
        if path:
            self._parts.append(f'<path class="specks {kind}" d="{path}"/>')

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        kind: str,
        tip: str = "",
        fill: str = "",
        trial: int | None = None,
    ) -> None:
        """Draw a rectangle; `fill` is CSS of its style, for what classes cannot say."""
        geometry = f'x="{_px(x)}" y="{_px(y)}" width="{_px(max(width, 0))}" height="{_px(height)}"'
        style = f' style="{fill}"' if fill else ""
        style += "" if trial is None else f' data-trial="{trial}"'
        self._parts.append(f'<rect class="{kind}" {geometry}{style}{_with(tip, "rect")}')

    def text(
        self,
        x: float,
        y: float,
        text: str,
        kind: str = "",
        anchor: str = "start",
        room: float = math.inf,
        turned: bool = False,
    ) -> None:
        """Draw text at its baseline, cut to `room` pixels; what was cut shows in full as a tip."""
        shown = fit(text, room)
        turn = f' transform="rotate(-90 {_px(x)} {_px(y)})"' if turned else ""
        tip = _with(text if shown != text else "", "text", str(escape(shown)))
        geometry = f'x="{_px(x)}" y="{_px(y)}" text-anchor="{anchor}"{turn}'
        self._parts.append(f'<text class="{kind}" {geometry}{tip}')

    def x_axis(
        self, at: Scale, y: float, top: float, marks: Sequence[tuple[float, str]], name: str = ""
    ) -> None:
        """Draw a horizontal axis at `y` with grid lines up to `top`."""
        self._parts.append('<g class="ax">')
        for value, label in marks:
            self.rule(at(value), top, at(value), y)
            self.text(at(value), y + 16, label, "tick", "middle")
        self._parts.append("</g>")
        if name:  # in the middle of the axis, unless it is too long for that
            half = text_width(name) / 2
            middle = max(half, min((at.start + at.end) / 2, self.width - half))
            self.text(middle, y + 34, name, "axis", "middle", self.width)

    def y_axis(
        self, at: Scale, x: float, right: float, marks: Sequence[tuple[float, str]], name: str = ""
    ) -> None:
        """Draw a vertical axis at `x` with grid lines to `right`."""
        self._parts.append('<g class="ay">')
        for value, label in marks:
            self.rule(x, at(value), right, at(value))
            self.text(x - 7, at(value) + 4, label, "tick", "end")
        self._parts.append("</g>")
        if name:
            self.text(14, (at.start + at.end) / 2, name, "axis", "middle", turned=True)

    @contextmanager
    def marks(self, across: Scale, up: Scale) -> Iterator[None]:
        """Collect what lies in the plot's area; on the page, dragging over it zooms in.

        The page's script moves circles, squares of class ``at`` and lines to the new scale and
        draws new ticks. Without a script the chart is as it is written.

        Args:
            across: The horizontal scale; its ends are the area's sides.
            up: The vertical scale.
        """
        number = len(self._parts)
        x, y = min(across.start, across.end), min(up.start, up.end)
        width, height = abs(across.end - across.start), abs(up.end - up.start)
        yield
        ends = ";".join(
            ",".join(f"{v:.6g}" for v in (at.low, at.high, at.start, at.end)) for at in (across, up)
        )
        box = f"{_px(x)},{_px(y)},{_px(width)},{_px(height)}"
        inside = "".join(self._parts[number:])
        self._parts[number:] = [
            f'<g class="marks" data-zoom="{ends}" data-box="{box}">{inside}</g>'
        ]

    def markup(self) -> Markup:
        """Return the whole as an SVG element that grows with the page up to its natural width."""
        head = (
            f'<svg role="img" aria-label="{escape(self.label)}" viewBox="0 0 {_px(self.width)} '
            f'{_px(self.height)}" style="max-width:{_px(self.width)}px">'
        )
        return Markup(head + "".join(self._parts) + "</svg>")


def text_width(text: str) -> float:
    """Estimate how many pixels a text takes in a usual sans serif face; a little too much."""
    return FONT * sum(map(_advance, text))


def fit(text: str, room: float) -> str:
    """Return the text, or as much of it as fits with an ellipsis.

    >>> fit("a-rather-long-name", 60.0)
    'a-rathe…'
    """
    if text_width(text) <= room:
        return text
    shown = text
    while shown and text_width(shown + "…") > room:
        shown = shown[:-1]
    return shown + "…"


def _advance(character: str) -> float:
    if unicodedata.combining(character):
        return 0.0
    if unicodedata.east_asian_width(character) in "WF":
        return 1.05
    if character in "ijlt.,:;'|!()[]/ ":
        return 0.36
    return 0.9 if character in "mwMW%@" else 0.7 if character.isupper() else 0.6


def _step(low: float, high: float, count: int) -> float:
    """Return 1, 2 or 5 times a power of ten, nearest to a `count`-th of the range."""
    raw = max((high - low) / max(1, count), 1e-12)
    power = 10.0 ** math.floor(math.log10(raw))
    return power * min((1, 2, 5, 10), key=lambda m: abs(math.log(m * power / raw)))


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _with(tip: str, tag: str, inside: str = "") -> str:
    """End an element: with its tip, or closed at once."""
    title = f"<title>{escape(tip)}</title>" if tip else ""
    return f">{title}{inside}</{tag}>" if title or inside else "/>"
