"""Shows several objectives: the trials that no other trial beats, and the pairs that trade off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from markupsafe import Markup

from evomerge.report.charts.svg import Figure, scale, ticks
from evomerge.report.numbers import number, plural
from evomerge.report.run import Run
from evomerge.study.statistics.correlation import rank_correlation
from evomerge.study.trial import front_of

_MOST_PAIRS, _MOST_ROWS = 4, 12
_WIDTH, _HEIGHT = 488.0, 330.0
Scored = tuple[str, tuple[float, ...]]  # a trial's name, and its gain on every objective


def section(run: Run) -> dict[str, Any]:
    """Return figures and the table of the front; empty where a study has one objective."""
    front = front_of(run.record)
    if front is None:
        return {}
    names = [task for task, spec in run.record.tasks_of("search").items() if spec["weight"] > 0]
    gains = {
        n: tuple(vector)
        for ask in run.record.generations.values()
        for n, vector in zip(ask.trials, ask.objectives or (), strict=False)
        if vector is not None
    }
    name = {n: run.record.trials[n].name for n in gains}
    ahead = sorted(front["trials"], key=lambda n: -math.fsum(gains[n]))
    trials = [(name[n], gains[n]) for n in gains if n not in ahead]
    leaders = [(name[n], gains[n]) for n in ahead]
    taken = run.recommended if run.recommended in gains else None
    chosen = [] if taken is None else [(name[taken], gains[taken])]
    pairs = _trade_offs(names, [*trials, *leaders])
    return {
        "figures": [_scatter(names, i, j, trials, leaders, chosen) for i, j in pairs],
        "objectives": names,
        "table": [
            {
                "name": who,
                "recommended": (who, vector) in chosen,
                "cells": [number(g, sign=True) for g in vector],
            }
            for who, vector in leaders[:_MOST_ROWS]
        ],
        "left": plural(len(leaders[_MOST_ROWS:]), "more trial"),
        "front": len(ahead),
        "of": len(gains),
        "pairs": len(names) * (len(names) - 1) // 2,
        "hypervolume": f"{front['hypervolume']:.3g}",
    }


def _trade_offs(names: Sequence[str], trials: Sequence[Scored]) -> list[tuple[int, int]]:
    """Return the pairs of objectives whose gains go apart most."""
    together = {
        (i, j): rank_correlation([(gains[i], gains[j]) for _, gains in trials]) or 0.0
        for i, j in combinations(range(len(names)), 2)
    }
    return sorted(sorted(together, key=lambda pair: together[pair])[:_MOST_PAIRS])


def _scatter(
    names: Sequence[str],
    i: int,
    j: int,
    trials: Sequence[Scored],
    ahead: Sequence[Scored],
    chosen: Sequence[Scored],
) -> Markup:
    """Draw gains on two objectives: the front as squares, the recommended one framed."""
    figure = Figure(_WIDTH, _HEIGHT, f"Gains on {names[i]} and {names[j]}")
    both = [*trials, *ahead, *chosen]
    across = scale([0.0, *(g[i] for _, g in both)], 84, _WIDTH - 14, 5)
    up = scale([0.0, *(g[j] for _, g in both)], _HEIGHT - 54, 34, 5)
    figure.x_axis(across, up.start, 34, ticks(across.low, across.high), f"gain on {names[i]}")
    figure.y_axis(up, 84, _WIDTH - 14, ticks(up.low, up.high), f"gain on {names[j]}")
    figure.rule(across(0), 34, across(0), up.start, "zero")
    figure.rule(84, up(0), _WIDTH - 14, up(0), "zero")
    for kind, size, dots in (("f5", 3, trials), ("f2", 7, chosen), ("f1", 4, ahead)):
        for name, gains in dots:
            tip = f"{name}: {number(gains[i], sign=True)}, {number(gains[j], sign=True)}"
            figure.dot(across(gains[i]), up(gains[j]), kind, tip, size, kind != "f5")
    entries = [("square", "f1", "on the front"), ("dot", "f5", "others")]
    figure.legend(84, 16, [*entries, *[("square", "f2", "recommended")][: len(chosen)]])
    return figure.markup()
