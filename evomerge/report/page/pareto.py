"""Shows several objectives: the trials that no other trial beats, and the pairs that trade off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from markupsafe import Markup

from evomerge.report.charts.frame import frame
from evomerge.report.charts.layout import HALF, WIDTH, Entry, is_narrow, legend, responsive
from evomerge.report.numbers import number, plural, tiny
from evomerge.report.run import Run
from evomerge.study.statistics.correlation import rank_correlation
from evomerge.study.trial import front_of

_MOST_PAIRS, _MOST_ROWS = 4, 12
Scored = tuple[int, str, tuple[float, ...]]  # trial, its name, its gain on every objective


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
    trials = [(n, name[n], gains[n]) for n in gains if n not in ahead]
    leaders = [(n, name[n], gains[n]) for n in ahead]
    taken = run.recommended if run.recommended in gains else None
    pairs = _trade_offs(names, [*trials, *leaders])
    width = HALF if len(pairs) > 1 else WIDTH * 0.75
    references = {run.record.trials[n].name for n in run.references.values()}
    reference = " / ".join(sorted(references)) or "reference"
    entries: list[Entry] = [("square", "f1", "on the front, numbered as below")]
    entries += [("square", "chosen", "recommended")] if taken is not None else []
    entries += [("dot", "f5", "other trials"), ("dot", "f2", reference)]
    return {
        "legend": legend(entries),
        "figures": [
            _scatter(names, pair, trials, leaders, taken, reference, width) for pair in pairs
        ],
        "wide": len(pairs) == 1,
        "objectives": names,
        "recommended": taken is not None,
        "table": [
            {
                "index": i + 1,
                "name": who,
                "recommended": n == taken,
                "cells": [number(g, sign=True) for g in vector],
            }
            for i, (n, who, vector) in enumerate(leaders[:_MOST_ROWS])
        ],
        "left": plural(len(leaders[_MOST_ROWS:]), "more trial"),
        "front": len(ahead),
        "of": len(gains),
        "pairs": len(names) * (len(names) - 1) // 2,
        "hypervolume": tiny(front["hypervolume"]),
    }


def _trade_offs(names: Sequence[str], trials: Sequence[Scored]) -> list[tuple[int, int]]:
    """Return the pairs of objectives whose gains go apart most."""
    together = {
        (i, j): rank_correlation([(gains[i], gains[j]) for _, _, gains in trials]) or 0.0
        for i, j in combinations(range(len(names)), 2)
    }
    return sorted(sorted(together, key=lambda pair: together[pair])[:_MOST_PAIRS])


def _scatter(
    names: Sequence[str],
    pair: tuple[int, int],
    trials: Sequence[Scored],
    ahead: Sequence[Scored],
    taken: int | None,
    reference: str,
    width: float,
) -> Markup:
    """Draw gains on two objectives: the front numbered, the recommended one framed."""
    i, j = pair
    both = [*trials, *ahead]

    def draw(width: float) -> Markup:
        at = frame(
            (width, 300.0 if is_narrow(width) else 360.0),
            f"Gains on {names[i]} and {names[j]}",
            [0.0, *(g[i] for _, _, g in both)],
            [0.0, *(g[j] for _, _, g in both)],
            (f"gain on {names[i]}", f"gain on {names[j]}"),
            zero=True,
        )
        figure, across, up = at.figure, at.across, at.up
        figure.rule(across(0), up.end, across(0), up.start, "zero")
        with figure.marks(across, up):
            for n, name, gains in trials:
                x, y = across(gains[i]), up(gains[j])
                figure.dot(x, y, "f5", _tip(name, gains[i], gains[j]), 3, trial=n)
            figure.dot(across(0), up(0), "f2", f"{reference}: the reference, gain 0", 5)
            for place, (n, name, gains) in reversed(list(enumerate(ahead, 1))):
                x, y = across(gains[i]), up(gains[j])
                if n == taken:
                    figure.dot(x, y, "chosen", "", 7, square=True)
                tip = _tip(f"{place}. {name}", gains[i], gains[j])
                figure.dot(x, y, "f1", tip, 4, True, n)
                if place <= _MOST_ROWS:
                    figure.text(x + 7, y - 6, str(place), "small at")
        return figure.markup()

    return responsive(draw, width)


def _tip(name: str, first: float, second: float) -> str:
    return f"{name}: {number(first, sign=True)}, {number(second, sign=True)}"
