"""Shows the search: gain by generation, the best so far by cost, each task, the surrogate check."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from markupsafe import Markup

from evomerge.report.charts.frame import Frame, Marks, frame
from evomerge.report.charts.layout import HALF, WIDTH, Entry, is_narrow, legend, responsive
from evomerge.report.charts.svg import Scale, ticks
from evomerge.report.findings.progress import (
    BestSoFar,
    Generation,
    best_so_far,
    generations,
    task_curves,
)
from evomerge.report.numbers import number, plural
from evomerge.report.run import Run
from evomerge.report.status import ended_text
from evomerge.study.journal.trials import Standing

_MOST_DOTS = 400  # of trials, in a figure
_MOST_TASKS = 12
_SMALL = 318.0  # px, of one of many small figures

Dot = tuple[int, Standing, bool]  # generation, standing, whether it is of the control arm


def section(run: Run) -> dict[str, Any]:
    """Return the figures, and a sentence about the last generation."""
    history = generations(run)
    if not history:
        return {"missing": "No generation has been scored yet."}
    by_metric = run.config.get("evaluate", {}).get("fitness") == "metric"
    unit = "fitness (the tasks' metrics)" if by_metric else "fitness (smooth score)"
    references = {run.record.trials[n].name for n in run.references.values()}
    reference = " / ".join(sorted(references)) or "reference anchor"
    failed = sum(g.failed for g in history)
    gains = any(g.reference is not None for g in history)
    curve = best_so_far(run)
    return {
        "gain": _gain(run, history) if gains else None,
        "fitness": _fitness(run, history, unit, reference, HALF if gains else WIDTH),
        "best": _best(curve) if gains and len(curve) > 1 else None,
        "correlation": None if by_metric else _correlation(history),
        "by_metric": by_metric,
        "by_task": _by_task(run),
        "warnings": [w.message for w in run.record.warnings if w.kind == "correlation"],
        "reference": reference,
        "said": _said(history, reference),
        "failed": f"{plural(failed, 'trial')} failed and are not drawn."
        if failed > 1
        else ""
        if not failed
        else "1 trial failed and is not drawn.",
        "ended": _ended(run),
    }


def _gain(run: Run, history: Sequence[Generation]) -> Markup:
    """Draw the gains over the reference anchor, which sees the same items."""
    comparable = [g for g in history if g.optimized and g.reference is not None]
    best = [(float(g.number), g.best.value) for g in comparable]
    middle = [(float(g.number), g.median_gain) for g in comparable]
    random = [(float(g.number), s.value) for g in history for s in g.random if s.gain is not None]
    luckiest = list(accumulate((v for _, v in random), max))
    record_line = [(x, v) for (x, _), v in zip(random, luckiest, strict=True)]
    record_line += [(float(history[-1].number), record_line[-1][1])] if record_line else []
    shown = [0.0, *(v for _, v in [*best, *middle, *random])]
    dots = [dot for dot in _dots(history) if dot[1].gain is not None]

    def draw(width: float) -> Markup:
        at = frame(
            (width, 240.0 if is_narrow(width) else 330.0),
            "Gain over the reference anchor by generation",
            _across(history),
            shown,
            ("generation", "gain over the reference"),
            _marks(history, width),
            zero=True,
        )
        with at.figure.marks(at.across, at.up):
            # few dots lie below the range of medians: on its edge, so that they do not set it
            _draw_dots(run, at, dots, lambda s: max(s.value, at.up.low), gains=True)
            at.series(best, "s1", "f1")
            at.series(middle, "s1 dotted", "f1", 2.5)
            if record_line:
                at.figure.line(at.points(record_line), "s4 dashed")
        return at.figure.markup()

    entries: list[Entry] = [
        ("line", "s1", "best of the generation"),
        ("line", "s1 dotted", "median"),
        ("dot", "f1 faint", "each trial"),
    ]
    if random:
        entries += [("square", "f4", "random"), ("line", "s4 dashed", "best random so far")]
    return legend(entries) + responsive(draw)


def _fitness(
    run: Run, history: Sequence[Generation], unit: str, reference: str, width: float
) -> Markup:
    """Draw fitness as the optimizer received it, with a moving mean where there is no reference."""
    scored = [g for g in history if g.optimized]
    best = [(float(g.number), g.best.fitness) for g in scored]
    against = [(float(g.number), g.reference) for g in history if g.reference is not None]
    alone = not against
    dots = _dots(history)
    values = [s.fitness for _, s, _ in dots] + [v for _, v in against]

    def draw(width: float) -> Markup:
        at = frame(
            (width, 240.0 if is_narrow(width) else 280.0),
            "Fitness by generation",
            _across(history),
            values,
            ("step" if alone else "generation", unit),
            _marks(history, width),
        )
        with at.figure.marks(at.across, at.up):
            _draw_dots(run, at, dots, lambda s: s.fitness, gains=False)
            if alone:
                at.figure.line(at.points(_moving(best)), "s1")
            else:
                at.series(best, "s1", "f1", 3)
                at.series(against, "s2 dashed", "f2", 3, square=True)
        return at.figure.markup()

    entries: list[Entry] = [("line", "s1", "mean of five" if alone else "best of the generation")]
    entries.append(("dot", "f1 faint", "each trial"))
    if any(g.random for g in history):
        entries.append(("square", "f4", "random"))
    if against:
        entries.append(("line", "s2 dashed", f"{reference} on the same items"))
    return legend(entries) + responsive(draw, width)


def _best(curve: Sequence[BestSoFar]) -> Markup:
    """Draw the best gain so far against trials, and against what was paid."""
    axes: list[tuple[str, Callable[[BestSoFar], float]]] = [
        ("search trials", lambda at: float(at.trials)),
        ("item evaluations, anchors included", lambda at: float(at.items)),
    ]

    def drawn(name: str, cost: Callable[[BestSoFar], float]) -> Markup:
        def draw(width: float) -> Markup:
            at = frame(
                (width, 220.0 if is_narrow(width) else 250.0),
                f"Best gain so far by {name}",
                [0.0, *map(cost, curve)],
                [0.0, *(p.gain for p in curve)],
                (name, "best gain so far"),
                zero=True,
            )
            with at.figure.marks(at.across, at.up):
                at.figure.line(at.points(stairs([(cost(p), p.gain) for p in curve])), "s1")
                for point in curve:
                    tip = (
                        f"{number(point.gain, sign=True)} after {plural(point.trials, 'trial')}, "
                        f"{plural(point.items, 'item evaluation')}"
                    )
                    x, y = at.across(cost(point)), at.up(point.gain)
                    at.figure.dot(x, y, "f1", tip, 3, trial=point.trial)
            return at.figure.markup()

        return responsive(draw, HALF)

    cells = Markup("").join(Markup("<div>{}</div>").format(drawn(*axis)) for axis in axes)
    return Markup('<div class="pair">{}</div>').format(cells)


def stairs(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the corners of a line that stays level until the next point.

    >>> stairs([(0, 1), (2, 3)])
    [(0, 1), (2, 1), (2, 3)]
    """
    corners = list(points[:1])
    for x, y in points[1:]:
        corners += [(x, corners[-1][1]), (x, y)]
    return corners


def _by_task(run: Run) -> dict[str, Any] | None:
    """Draw each task by generation: of the generation's best trial, and the median."""
    by_task = task_curves(run)
    if not by_task.curves:
        return None
    shown = dict(list(by_task.curves.items())[:_MOST_TASKS])
    values = [v for curve in shown.values() for _, *both in curve for v in both]
    values += [0.0] if by_task.is_gain else []
    first = min(curve[0][0] for curve in shown.values())
    last = max(curve[-1][0] for curve in shown.values())

    def drawn(task: str, curve: Sequence[tuple[int, float, float]]) -> Markup:
        def draw(width: float) -> Markup:
            room = max(0.5, 0.02 * (last - first))
            at = frame(
                (width, 190.0),
                f"{'Gain' if by_task.is_gain else 'Score'} on {task} by generation",
                Scale(first - room, last + room, 0, 1),
                values,
                ("", ""),
                ticks(first, max(last, first + 1e-6), 4, whole=True) or [(first, str(first))],
                zero=by_task.is_gain,
            )
            best = [(float(g), v) for g, v, _ in curve]
            with at.figure.marks(at.across, at.up):
                if by_task.is_gain:
                    at.figure.line(at.points(best), "s1")
                    at.figure.line(at.points([(float(g), v) for g, _, v in curve]), "s1 dotted")
                else:
                    at.figure.specks(at.points(best), "s1 faint")
                    at.figure.line(at.points(_moving(best)), "s1")
            return at.figure.markup()

        return responsive(draw, _SMALL)

    entries: list[Entry] = [
        ("line", "s1", "the generation's best trial over all tasks"),
        ("line", "s1 dotted", "median"),
    ]
    if not by_task.is_gain:
        entries = [("line", "s1", "mean of five"), ("dot", "f1 faint", "each step, smooth score")]
    return {
        "legend": legend(entries),
        "figures": [(task, drawn(task, curve)) for task, curve in shown.items()],
        "left": len(by_task.curves) - len(shown),
    }


def _correlation(history: Sequence[Generation]) -> Markup | None:
    known = [(float(g.number), g.correlation) for g in history if g.correlation is not None]
    of_loss = [
        (float(g.number), g.loss_correlation) for g in history if g.loss_correlation is not None
    ]
    if not known:
        return None
    what = "the smooth score and the loss" if of_loss else "the smooth score"

    def draw(width: float) -> Markup:
        at = frame(
            (width, 220.0 if is_narrow(width) else 280.0),
            f"Rank correlation of {what} with the metric",
            _across(history),
            Scale(-1.0 if min(v for _, v in [*known, *of_loss]) < 0 else 0.0, 1.0, 0, 1),
            ("generation", "rank correlation"),
            _marks(history, width),
            zero=True,
        )
        with at.figure.marks(at.across, at.up):
            at.series(known, "ink", "ink", 4 if len(known) <= 20 else 2.2)
            if of_loss:
                at.series(of_loss, "ink dashed", "ink", 2.2)
        return at.figure.markup()

    entries: list[Entry] = [("line", "ink", "smooth score against the metric")]
    entries += [("line", "ink dashed", "minus the loss against it")] if of_loss else []
    return legend(entries) + responsive(draw, HALF)


def _dots(history: Sequence[Generation]) -> list[Dot]:
    """Return what is drawn as a dot each: all trials, or every n-th where there are many."""
    dots = [
        (g.number, standing, standing in g.random)
        for g in history
        for standing in sorted((*g.optimized, *g.random), key=lambda s: s.trial)
    ]
    return dots[:: max(1, math.ceil(len(dots) / _MOST_DOTS))]


def _draw_dots(
    run: Run, at: Frame, dots: Sequence[Dot], value: Callable[[Standing], float], gains: bool
) -> None:
    for generation, standing, is_random in dots:
        name = run.record.trials[standing.trial].name
        shown = standing.gain if gains else standing.fitness
        tip = f"{name}, generation {generation}: {number(shown, sign=gains)}"
        x, y = at.across(generation), at.up(value(standing))
        kind = "f4" if is_random else "f1 faint"
        at.figure.dot(x, y, kind, tip, 3, is_random, standing.trial)


def _moving(points: Sequence[tuple[float, float]], of: int = 5) -> list[tuple[float, float]]:
    """Return each point's mean with those before it, at most `of` of them."""
    return [
        (x, math.fsum(v for _, v in points[max(0, i - of + 1) : i + 1]) / min(i + 1, of))
        for i, (x, _) in enumerate(points)
    ]


def _across(history: Sequence[Generation]) -> Scale:
    """Return generations on a scale with half a generation's room at either side."""
    first, last = history[0].number, history[-1].number
    room = max(0.5, 0.02 * (last - first))
    return Scale(first - room, last + room, 0, 1)


def _marks(history: Sequence[Generation], width: float) -> Marks:
    first, last = history[0].number, history[-1].number
    count = 5 if is_narrow(width) else 12 if width > HALF else 6
    return ticks(first, max(last, first + 1e-6), count, whole=True) or [(first, str(first))]


def _said(history: Sequence[Generation], reference: str) -> str:
    last = next((g for g in reversed(history) if g.optimized), None)
    if last is None:
        return "Every trial failed."
    said = f"In generation {last.number} the best trial scores {number(last.best.fitness)}"
    if last.reference is None:
        return said + "."
    return (
        f"{said}, {number(last.best.gain, sign=True)} over {reference} on the same items; the "
        f"median trial {number(last.median_gain, sign=True)}."
    )


def _ended(run: Run) -> str:
    ended = run.record.search_ended
    if ended is None:
        return "The search has not ended."
    return f"The search {ended_text(ended)}."
