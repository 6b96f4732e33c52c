"""Draws parallel coordinates: what the best trials have in common, one row per dimension."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from evomerge.recipe.space.dimension import Dimension
from evomerge.report.charts.charts import WIDTH
from evomerge.report.charts.svg import Figure, Scale
from evomerge.report.numbers import number
from evomerge.report.run import Run
from evomerge.study.statistics.correlation import rank_correlation

_MOST_ROWS, _MOST_LINES = 24, 300
_BEST = 0.1  # share of the trials that is drawn in colour
_LEFT, _RIGHT, _TOP, _ROW = 336.0, WIDTH - 100, 46.0, 22.0
Scored = tuple[float, tuple[Any, ...], str]  # gain, point, name
DimensionRow = tuple[int, Dimension, float]  # index in the point, dimension, rank correlation


def section(run: Run) -> dict[str, Any]:
    """Return the figure, and what was left out of it; empty before two trials are scored."""
    dimensions = run.record.dimensions
    trials = _scored(run)
    if len(trials) < 2 or not dimensions:
        return {}
    ties = [_tie(dimension, i, trials) for i, dimension in enumerate(dimensions)]
    ranked = sorted(range(len(dimensions)), key=lambda i: -abs(ties[i]))
    shown = sorted(ranked[:_MOST_ROWS])
    drawn = trials[: max(2, math.ceil(_BEST * len(trials)))]
    others = trials[len(drawn) :]
    step = max(1, math.ceil(len(others) / (_MOST_LINES - len(drawn))))
    others = others[::step]
    rows = [(i, dimensions[i], ties[i]) for i in shown]
    return {
        "figure": _figure(rows, others, drawn),
        "best": len(drawn),
        "of": len(trials),
        "rows": len(shown),
        "dimensions": len(dimensions),
        "lines": len(drawn) + len(others),
    }


def _scored(run: Run) -> list[Scored]:
    """Return trials with their gain over the reference (else fitness), the best first."""
    trials: list[Scored] = []
    for standing in run.record.standings():
        trial = run.record.trials[standing.trial]
        if trial.point is not None:
            trials.append((standing.value, trial.point, trial.name))
    return sorted(trials, key=lambda scored: -scored[0])


def _tie(dimension: Dimension, index: int, trials: Sequence[Scored]) -> float:
    """Rank correlation of a dimension with the gain, 0 where it is undefined."""
    if dimension.kind == "categorical":
        pairs = [(dimension.position(point[index]), gain) for gain, point, _ in trials]
    else:
        pairs = [(float(point[index]), gain) for gain, point, _ in trials]
    return rank_correlation(pairs) or 0.0


def _figure(
    rows: Sequence[DimensionRow], others: Sequence[Scored], best: Sequence[Scored]
) -> Markup:
    at = Scale(0.0, 1.0, _LEFT, _RIGHT)
    figure = Figure(WIDTH, _TOP + _ROW * len(rows) + 6, "Parallel coordinates of the trials")
    figure.text(WIDTH, _TOP - 6, "rank correlation with the gain", "axis", "end")
    heights = [_TOP + _ROW * (i + 0.5) for i in range(len(rows))]
    for y, (_, dimension, tie) in zip(heights, rows, strict=True):
        figure.rule(_LEFT, y, _RIGHT, y)
        figure.text(_LEFT - 56, y + 4, _named(dimension.name), "", "end", 278)
        for x, label, anchor in _ends(dimension):
            figure.text(x, y + 4, label, "tick", anchor, 42)
        figure.text(WIDTH, y + 4, f"{tie:+.2f}".replace("-", "−"), "value", "end")
    for kind, lines in (("s5 back", others), ("s1 front", best)):
        for gain, point, name in reversed(lines):
            line = [
                (at(dimension.position(point[index])), y)
                for y, (index, dimension, _) in zip(heights, rows, strict=True)
            ]
            figure.line(line, kind, f"{name}: {number(gain, sign=True)}")
    label = f"the best {len(best)}" if len(best) > 1 else "the best trial"
    figure.legend(_LEFT, 16, [("line", "s1", label), ("line", "s5", "others")])
    return figure.markup()


def _named(dimension: str) -> str:
    """Return a dimension's name, shorter.

    >>> _named("blocks[1].models[expert-a].weight[2]")
    'blocks[1] expert-a weight[2]'
    """
    return re.sub(r"models\[([^][]*)\]\.", r"\1 ", dimension).replace("].", "] ")


def _ends(dimension: Dimension) -> list[tuple[float, str, str]]:
    if dimension.kind == "categorical":
        low, high = str(dimension.choices[0]), str(dimension.choices[-1])
    else:
        low, high = (f"{end:g}".replace("-", "−") for end in (dimension.low, dimension.high))
    return [(_LEFT - 6, low, "end"), (_RIGHT + 6, high, "start")]
