"""Draws every figure twice, for wide pages and for phones, with a legend that wraps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup, escape

WIDTH = 1000.0  # px, of a figure that takes the page's whole width
HALF = 488.0  # px, of one that takes half of it
PHONE = 350.0  # px, of any figure on a phone

Entry = tuple[str, str, str]  # shape (line, dot, square, bar), CSS class, label


def responsive(draw: Callable[[float], Markup], width: float = WIDTH) -> Markup:
    """Draw a figure at its width and at a phone's; the page's style shows the one that fits.

    Args:
        draw: Draws the figure for a width in pixels.
        width: Its width on a wide page.
    """
    wide, narrow = draw(width), draw(PHONE)
    return Markup(f'<div class="at-wide">{wide}</div><div class="at-phone">{narrow}</div>')


def is_narrow(width: float) -> bool:
    """Return whether a figure is drawn for a phone, where labels stand above what they name."""
    return width < HALF - 80


def legend(entries: Sequence[Entry]) -> Markup:
    """Return a row of signs and labels that wraps where it does not fit."""
    keys = "".join(
        f'<span class="key"><svg viewBox="0 0 22 12" aria-hidden="true">{_sign(shape, kind)}</svg>'
        f"{escape(label)}</span>"
        for shape, kind, label in entries
    )
    return Markup(f'<div class="legend">{keys}</div>')


def _sign(shape: str, kind: str) -> str:
    if shape == "line":
        return f'<polyline class="line {kind}" points="1,6 21,6"/>'
    if shape == "dot":
        return f'<circle class="{kind}" cx="11" cy="6" r="3.5"/>'
    if shape == "square":
        return f'<rect class="{kind}" x="7" y="2" width="8" height="8"/>'
    return f'<rect class="{kind}" x="2" y="1" width="18" height="10"/>'
