"""Several objectives: the trials that no other trial beats, and the pairs that trade off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from markupsafe import Markup

from evomerge.report.numbers import number
from evomerge.report.run import Run
from evomerge.report.svg import Figure, scale, ticks
from evomerge.study.correlation import rank_correlation

_MOST_PAIRS, _MOST_ROWS = 4, 12
_WIDTH, _HEIGHT = 488.0, 330.0
Scored = tuple[str, tuple[float, ...]]  # a trial's name, and its gain on every objective


def section(run: Run) -> dict[str, Any]:
    """Figures and the table of the front; empty where a study has one objective."""
    names = [task for task, spec in run.tasks.items() if spec["weight"] > 0]
    trials = [
        (run.record.trials[n].name, tuple(gains))
        for n, gains in run.objectives.items()
        if gains is not None and len(gains) == len(names)
    ]
    if len(names) < 2 or not trials:
        return {}
    best = front([gains for _, gains in trials])
    ahead = [trials[i] for i in best]
    pairs = _trade_offs(names, trials)
    ahead.sort(key=lambda scored: -math.fsum(scored[1]))
    return {
        "figures": [_scatter(names, i, j, trials, ahead) for i, j in pairs],
        "objectives": names,
        "table": [
            {"name": name, "cells": [number(g, sign=True) for g in gains]}
            for name, gains in ahead[:_MOST_ROWS]
        ],
        "front": len(ahead),
        "of": len(trials),
        "pairs": len(names) * (len(names) - 1) // 2,
    }


def front(points: Sequence[Sequence[float]]) -> list[int]:
    """Places of the points that no other dominates: as good everywhere, and better somewhere.

    >>> front([(1, 0), (0, 1), (0, 0), (1, 0)])
    [0, 1, 3]
    """
    return [
        i
        for i, mine in enumerate(points)
        if not any(
            all(b >= a for a, b in zip(mine, other, strict=True)) and tuple(other) != tuple(mine)
            for other in points
        )
    ]


def _trade_offs(names: Sequence[str], trials: Sequence[Scored]) -> list[tuple[int, int]]:
    """The pairs of objectives whose gains go apart most."""
    together = {
        (i, j): rank_correlation([(gains[i], gains[j]) for _, gains in trials]) or 0.0
        for i, j in combinations(range(len(names)), 2)
    }
    return sorted(sorted(together, key=lambda pair: together[pair])[:_MOST_PAIRS])


def _scatter(
    names: Sequence[str], i: int, j: int, trials: Sequence[Scored], ahead: Sequence[Scored]
) -> Markup:
    """Gains on two objectives; the trials of the front are squares."""
    figure = Figure(_WIDTH, _HEIGHT, f"Gains on {names[i]} and {names[j]}")
    across = scale([0.0, *(g[i] for _, g in trials)], 84, _WIDTH - 14, 5)
    up = scale([0.0, *(g[j] for _, g in trials)], _HEIGHT - 54, 34, 5)
    figure.x_axis(across, up.start, 34, ticks(across.low, across.high), f"gain on {names[i]}")
    figure.y_axis(up, 84, _WIDTH - 14, ticks(up.low, up.high), f"gain on {names[j]}")
    figure.rule(across(0), 34, across(0), up.start, "zero")
    figure.rule(84, up(0), _WIDTH - 14, up(0), "zero")
    on_front = set(ahead)
    for name, gains in sorted(trials, key=lambda scored: scored in on_front):
        is_ahead = (name, gains) in on_front
        tip = f"{name}: {number(gains[i], sign=True)}, {number(gains[j], sign=True)}"
        kind = "f1" if is_ahead else "f5"
        figure.dot(across(gains[i]), up(gains[j]), kind, tip, 4 if is_ahead else 3, is_ahead)
    figure.legend(84, 16, [("square", "f1", "on the front"), ("dot", "f5", "others")])
    return figure.markup()
