"""Sets up a plot's figure and axes, for a wide page or a phone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evomerge.report.charts.layout import is_narrow
from evomerge.report.charts.svg import Figure, Scale, scale, ticks

Marks = Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Frame:
    """A figure with its two scales."""

    figure: Figure
    across: Scale
    up: Scale

    def points(self, values: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        """Return the pixels of (x, y) pairs."""
        return [(self.across(x), self.up(y)) for x, y in values]

    def series(
        self,
        values: Sequence[tuple[float, float]],
        line: str,
        dots: str = "",
        size: float = 4,
        square: bool = False,
    ) -> None:
        """Draw a line, with dots where there are few points."""
        points = self.points(values)
        self.figure.line(points, line)
        if dots and len(points) <= 60:
            for x, y in points:
                self.figure.dot(x, y, dots, "", size, square)


def frame(
    size: tuple[float, float],
    aria: str,
    x: Iterable[float] | Scale,
    y: Iterable[float] | Scale,
    names: tuple[str, str],
    x_marks: Marks | None = None,
    zero: bool = False,
) -> Frame:
    """Return a figure with drawn axes; the vertical axis' name stands above it on a phone.

    Args:
        size: Width and height in pixels.
        aria: What the figure shows, for readers that can't see it.
        x: All values across, or a scale whose pixels do not count.
        y: All values upwards, or a scale likewise.
        names: Of the axes, across and upwards.
        x_marks: Ticks across; ``None`` for round numbers.
        zero: Whether to draw a line at 0.
    """
    width, height = size
    narrow = is_narrow(width)
    left, top = (44.0, 22.0) if narrow else (84.0, 12.0)
    right, bottom = width - 20, height - 44
    figure = Figure(width, height, aria)
    count = 4 if narrow else 6
    if isinstance(x, Scale):
        across = Scale(x.low, x.high, left, right)
    else:
        across = scale(x, left, right, count)
    if isinstance(y, Scale):
        up = Scale(y.low, y.high, bottom, top)
    else:
        up = scale(y, bottom, top, max(3, round(height / 60)))
    marks = ticks(up.low, up.high, max(3, round(height / 60)))
    figure.y_axis(up, left, right, marks, "" if narrow else names[1])
    if narrow:
        figure.text(0, 12, names[1], "axis", "start", width)
    figure.x_axis(
        across, bottom, bottom, x_marks or ticks(across.low, across.high, count), names[0]
    )
    if zero:
        figure.rule(left, up(0), right, up(0), "zero")
    return Frame(figure, across, up)
