"""Draws a path: which layer of which model stands at each place of a model, and how it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from evomerge.report.charts.layout import WIDTH, is_narrow
from evomerge.report.charts.svg import Figure

_LABEL, _NARROW_LABEL = 190.0, 92.0
_LANE, _BETWEEN = 64.0, 10.0


@dataclass(frozen=True)
class Step:
    """A layer of a model, the number of that model's layers, and the hop on the way into it."""

    model: str
    layer: int
    depth: int
    hop: float = 1.0


def path(steps: Sequence[Step], aria: str, width: float = WIDTH) -> Markup:
    """Draw a lane for each model, in which a place's dot lies the higher, the deeper its layer is.

    Args:
        steps: The layers in the order in which they run.
        aria: What the figure shows, for readers that can't see it.
        width: The figure's width in pixels.
    """
    label = _NARROW_LABEL if is_narrow(width) else _LABEL
    models = list(dict.fromkeys(step.model for step in steps))
    bottom = 8 + len(models) * (_LANE + _BETWEEN)
    figure = Figure(width, bottom + 58, aria)
    wide = min((width - label) / len(steps), 70.0)
    for i, model in enumerate(models):
        top = 8 + i * (_LANE + _BETWEEN)
        for y in (top, top + _LANE):
            figure.rule(label, y, label + wide * len(steps), y)
        figure.text(label - 8, top + _LANE / 2 + 4, model, "", "end", label - 10)
    places = [
        (
            label + wide * (k + 0.5),
            8 + models.index(step.model) * (_LANE + _BETWEEN) + _lift(step),
        )
        for k, step in enumerate(steps)
    ]
    figure.line(places, "s4")
    every = max(1, round(26 / wide))
    for k, (step, (x, y)) in enumerate(zip(steps, places, strict=True)):
        by = "" if step.hop == 1 else f", hop {step.hop:.3g}"
        figure.dot(x, y, "ours", f"place {k}: layer {step.layer} of {step.model}{by}", 4)
        if wide >= 26:
            figure.text(x, y - 7, str(step.layer), "tick", "middle")
        if k % every == 0:
            figure.text(x, bottom + 16, str(k), "tick", "middle")
        if step.hop != 1 and wide >= 34:
            figure.text(x, bottom + 32, f"×{step.hop:.2f}", "tick", "middle")
    middle = label + wide * len(steps) / 2
    figure.text(middle, bottom + 50, "place in the result, and hop", "axis", "middle", width)
    return figure.markup()


def _lift(step: Step) -> float:
    """Return how far below its lane's top a layer lies; the first at the bottom."""
    share = step.layer / max(1, step.depth - 1)
    return _LANE - 8 - (_LANE - 24) * min(1.0, share)
