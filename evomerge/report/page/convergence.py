"""Shows the search by generation: fitness, gain over the reference anchor, rank correlation."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from markupsafe import Markup

from evomerge.report.charts.charts import WIDTH
from evomerge.report.charts.svg import Figure, Scale, scale, ticks
from evomerge.report.numbers import number, plural
from evomerge.report.run import Run
from evomerge.report.status import ended_text
from evomerge.study.journal.trials import Standing
from evomerge.study.phases.control import KIND as RANDOM

_HALF = 488.0  # px, of a figure that takes half the page


@dataclass(frozen=True)
class Generation:
    """One generation; all of it may have failed.

    Attributes:
        number: Counted from 0.
        optimized: The optimizer's trials that did not fail.
        random: The control arm's trials that did not fail.
        failed: How many trials failed.
        reference: The reference anchor's fitness on the same items.
        correlation: Of smooth score and metric.
        loss_correlation: Of minus the loss and metric, where steps follow gradients.
    """

    number: int
    optimized: Sequence[Standing]
    random: Sequence[Standing]
    failed: int
    reference: float | None
    correlation: float | None
    loss_correlation: float | None = None

    @property
    def best(self) -> Standing:
        """The optimizer's best trial; there is one if `optimized` is not empty."""
        return max(self.optimized, key=lambda standing: standing.fitness)

    @property
    def median(self) -> float:
        """Median fitness of the optimizer's trials."""
        return statistics.median(standing.fitness for standing in self.optimized)

    @property
    def median_gain(self) -> float:
        """Median gain of the optimizer's trials."""
        return statistics.median(standing.value for standing in self.optimized)


def generations(run: Run) -> list[Generation]:
    """Return the generations whose fitness the optimizer has received, in order."""
    history = []
    for generation, ask in sorted(run.record.generations.items()):
        if ask.fitness is None:
            continue
        arms: dict[bool, list[Standing]] = {False: [], True: []}
        for standing in ask.standings():
            arms[run.record.trials[standing.trial].kind == RANDOM].append(standing)
        failed = len(ask.trials) - sum(map(len, arms.values()))
        correlations = ask.correlation, ask.loss_correlation
        history.append(
            Generation(generation, arms[False], arms[True], failed, ask.reference, *correlations)
        )
    return history


def section(run: Run) -> dict[str, Any]:
    """Return three figures, and a sentence about the last generation."""
    history = generations(run)
    if not history:
        return {"missing": "No generation has been scored yet."}
    by_metric = run.config.get("evaluate", {}).get("fitness") == "metric"
    unit = "fitness (the tasks' metrics)" if by_metric else "fitness (smooth score)"
    references = {run.record.trials[n].name for n in run.references.values()}
    reference = " / ".join(sorted(references)) or "reference anchor"
    failed = sum(g.failed for g in history)
    gains = any(g.reference is not None for g in history)
    return {
        "fitness": _fitness(run, history, unit, reference),
        "gain": _gain(history) if gains else None,
        "correlation": None if by_metric else _correlation(history),
        "by_metric": by_metric,
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


def _fitness(run: Run, history: Sequence[Generation], unit: str, reference: str) -> Markup:
    figure = Figure(WIDTH, 350, "Fitness by generation")
    across = _across(history, 84, WIDTH - 14)
    values = [s.fitness for g in history for s in (*g.optimized, *g.random)]
    values += [g.reference for g in history if g.reference is not None]
    up = scale(values, 296, 34)
    figure.y_axis(up, 84, WIDTH - 14, ticks(up.low, up.high), unit)
    figure.x_axis(across, 296, 296, _marks(history), "generation")
    size = 3 if len(history) <= 40 else 2
    for g in history:
        for standing in sorted((*g.optimized, *g.random), key=lambda s: s.trial):
            name, is_random = run.record.trials[standing.trial].name, standing in g.random
            tip = f"{name}, generation {g.number}: {number(standing.fitness)}"
            kind = "f4" if is_random else "f1 faint"
            figure.dot(across(g.number), up(standing.fitness), kind, tip, size, square=is_random)
    scored = [g for g in history if g.optimized]
    _series(figure, [(across(g.number), up(g.best.fitness)) for g in scored], "s1")
    middle = [(across(g.number), up(g.median)) for g in scored]
    _series(figure, middle, "s1 dotted", "f1", small=True)
    reference_line = [
        (across(g.number), up(g.reference)) for g in history if g.reference is not None
    ]
    _series(figure, reference_line, "s2 dashed", "f2", square=True)
    entries = [("line", "s1", "best of the generation"), ("line", "s1 dotted", "median")]
    entries.append(("dot", "f1 faint", "each trial"))
    if any(g.random for g in history):
        entries.append(("square", "f4", "random"))
    if reference_line:
        entries.append(("line", "s2 dashed", f"{reference} on the same items"))
    figure.legend(84, 16, entries)
    return figure.markup()


def _gain(history: Sequence[Generation]) -> Markup:
    """Return the best and the median minus the reference, which sees the same items."""
    figure = Figure(_HALF, 280, "Gain over the reference anchor by generation")
    across = _across(history, 84, _HALF - 12)
    comparable = [g for g in history if g.optimized and g.reference is not None]
    best = [(g.number, g.best.value) for g in comparable]
    half = [(g.number, g.median_gain) for g in comparable]
    drawn = [(g.number, s.value) for g in history for s in g.random if s.gain is not None]
    up = scale([0.0, *(v for _, v in [*best, *half, *drawn])], 226, 34)
    figure.y_axis(up, 84, _HALF - 12, ticks(up.low, up.high), "gain over the reference")
    figure.x_axis(across, 226, 226, _marks(history, 6), "generation")
    figure.rule(84, up(0), _HALF - 12, up(0), "zero")
    _series(figure, [(across(g), up(v)) for g, v in best], "s1")
    _series(figure, [(across(g), up(v)) for g, v in half], "s1 dotted", "f1", small=True)
    entries = [("line", "s1", "best"), ("line", "s1 dotted", "median")]
    if drawn:
        for g, value in drawn:
            figure.dot(across(g), up(value), "f4", f"random: {number(value, sign=True)}", 3, True)
        record_so_far = list(accumulate((v for _, v in drawn), max))
        line = [(across(g), up(v)) for (g, _), v in zip(drawn, record_so_far, strict=True)]
        figure.line([*line, (across(history[-1].number), line[-1][1])], "s4 dashed")
        entries.append(("line", "s4 dashed", "best random so far"))
    figure.legend(84, 16, entries)
    return figure.markup()


def _correlation(history: Sequence[Generation]) -> Markup | None:
    known = [(g.number, g.correlation) for g in history if g.correlation is not None]
    of_loss = [(g.number, g.loss_correlation) for g in history if g.loss_correlation is not None]
    if not known:
        return None
    what = "the smooth score and the loss" if of_loss else "the smooth score"
    figure = Figure(_HALF, 280, f"Rank correlation of {what} with the metric")
    across = _across(history, 84, _HALF - 12)
    up = Scale(-1.0 if min(v for _, v in [*known, *of_loss]) < 0 else 0.0, 1.0, 226, 34)
    figure.y_axis(up, 84, _HALF - 12, ticks(up.low, up.high), "rank correlation")
    figure.x_axis(across, 226, 226, _marks(history, 6), "generation")
    figure.rule(84, up(0), _HALF - 12, up(0), "zero")
    _series(figure, [(across(g), up(v)) for g, v in known], "s3", "f3")
    entries = [("line", "s3", "smooth score against the metric")]
    if of_loss:
        _series(figure, [(across(g), up(v)) for g, v in of_loss], "s1 dashed", "f1")
        entries.append(("line", "s1 dashed", "minus the loss against it"))
    figure.legend(84, 16, entries)
    return figure.markup()


def _series(
    figure: Figure,
    points: Sequence[tuple[float, float]],
    line: str,
    dots: str = "f1",
    square: bool = False,
    small: bool = False,
) -> None:
    figure.line(points, line)
    if len(points) <= 60:
        for x, y in points:
            figure.dot(x, y, dots, "", 2.5 if small else 4, square)


def _across(history: Sequence[Generation], start: float, end: float) -> Scale:
    """Return generations on a scale with half a generation's room at either side."""
    first, last = history[0].number, history[-1].number
    room = max(0.5, 0.02 * (last - first))
    return Scale(first - room, last + room, start, end)


def _marks(history: Sequence[Generation], count: int = 12) -> list[tuple[float, str]]:
    first, last = history[0].number, history[-1].number
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
