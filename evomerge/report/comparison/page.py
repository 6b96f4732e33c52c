"""Writes the page that shows several runs side by side; like a report it loads nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from evomerge.core.atomic import write_text
from evomerge.core.errors import UserError
from evomerge.report.charts.frame import frame
from evomerge.report.charts.intervals import Gap, differences
from evomerge.report.charts.layout import HALF, is_narrow, legend, responsive
from evomerge.report.comparison.runs import RunComparison, compare_runs
from evomerge.report.comparison.text import NOTE, facts, pair_text
from evomerge.report.findings.progress import BestSoFar
from evomerge.report.numbers import NONE, number, plural
from evomerge.report.page.convergence import stairs
from evomerge.report.page.page import render


def write_comparison(folders: Sequence[Path | str], out: Path) -> Path:
    """Write the comparison of runs to the file `out`, and return it.

    Raises:
        UserError: See `compare_runs`; or the file cannot be written.
    """
    try:
        write_text(out, comparison_page(compare_runs(folders)), errors="xmlcharrefreplace")
    except OSError as error:
        raise UserError(
            f"cannot write the comparison {out}: {error.strerror}; name another file (--out)"
        ) from None
    return out


def comparison_page(compared: RunComparison) -> str:
    """Return the page as text."""
    columns = [facts(run) for run in compared.runs]
    tasks = list(dict.fromkeys(task for run in compared.runs for task in run.scores))
    rows = [name for name in columns[0] if name not in tasks and name != "run"]
    names = [run.name for run in compared.runs]
    lower = {task for run in compared.runs for task in run.lower_is_better}
    best = {
        task: (min if task in lower else max)(
            run.scores[task] for run in compared.runs if task in run.scores
        )
        for task in tasks
    }
    return render(
        "comparison.html.jinja",
        title=" · ".join(names),
        names=[(name, f"m{1 + i}") for i, name in enumerate(names)],
        facts=[(row, [column[row] for column in columns]) for row in rows],
        tasks=tasks,
        scores=[
            {
                "name": run.name,
                "cells": [(number(run.scores.get(t)), run.scores.get(t) == best[t]) for t in tasks],
                "mean": NONE if run.held_out is None else number(run.held_out),
            }
            for run in compared.runs
            if run.scores
        ],
        pairs=[pair_text(pair) for pair in compared.pairs],
        forest=_forest(compared),
        curves=_curves(compared) if compared.curves else None,
        means=[name for name in names if name in compared.means and name in compared.curves],
        without=[name for name in names if name not in compared.curves],
        note=NOTE,
    )


def _forest(compared: RunComparison) -> Markup | None:
    gaps = [
        Gap(
            pair.name,
            pair.difference.difference,
            pair.difference.low,
            pair.difference.high,
            f"{plural(pair.difference.items, 'item')}",
            True,
        )
        for pair in compared.pairs
        if pair.difference is not None
    ]
    if not gaps:
        return None
    name = f"recommended recipe minus that of {compared.runs[0].name}; right of 0: better"
    return responsive(partial(differences, gaps, name, "Paired differences of the runs"))


def _curves(compared: RunComparison) -> dict[str, Any]:
    colours = {
        run.name: f"t{1 + i}{' dashed' if run.name in compared.means else ''}"
        for i, run in enumerate(compared.runs)
    }
    dots = {run.name: f"m{1 + i}" for i, run in enumerate(compared.runs)}
    axes: list[tuple[str, Callable[[BestSoFar], float]]] = [
        ("search trials", lambda at: float(at.trials)),
        ("item evaluations, anchors included", lambda at: float(at.items)),
    ]

    def drawn(name: str, cost: Callable[[BestSoFar], float]) -> Markup:
        points = [p for curve in compared.curves.values() for p in curve]

        def draw(width: float) -> Markup:
            at = frame(
                (width, 240.0 if is_narrow(width) else 300.0),
                f"Best gain so far by {name}",
                [0.0, *map(cost, points)],
                [0.0, *(p.gain for p in points)],
                (name, "gain over the best baseline"),
                zero=True,
            )
            with at.figure.marks(at.across, at.up):
                for run, curve in compared.curves.items():
                    corners = [(cost(p), p.gain) for p in curve]
                    if run not in compared.means:
                        corners = stairs(corners)
                    places = at.points(corners)
                    at.figure.line(places, colours[run], run)
                    if len(curve) == 1:  # which makes no line
                        at.figure.dot(*places[0], dots[run], run)
            return at.figure.markup()

        return responsive(draw, HALF)

    return {
        "legend": legend([("line", colours[run], run) for run in compared.curves]),
        "figures": [drawn(*axis) for axis in axes],
    }
