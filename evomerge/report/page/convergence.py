"""The search by generation: fitness, gain over the reference anchor, rank correlation."""

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
from evomerge.study.phases.control import KIND as RANDOM

_HALF = 488.0  # px, of a figure that takes half the page


@dataclass(frozen=True)
class Generation:
    """One generation with its fitness; all of it may have failed.

    `is_random` marks the control arm's trials, which take no part in `known`.
    """

    number: int
    names: Sequence[str]
    fitness: Sequence[float | None]
    reference: float | None
    correlation: float | None
    is_random: Sequence[bool] = ()

    @property
    def known(self) -> list[float]:
        """Fitness of the optimizer's trials that did not fail."""
        return self._known(False)

    @property
    def drawn(self) -> list[float]:
        """Fitness of the control arm's trials that did not fail."""
        return self._known(True)

    def _known(self, random: bool) -> list[float]:
        arms = self.is_random or [False] * len(self.fitness)
        both = zip(self.fitness, arms, strict=True)
        return [value for value, arm in both if value is not None and arm == random]


def generations(run: Run) -> list[Generation]:
    """The generations that the optimizer was told about, in order."""
    trials = run.record.trials
    return [
        Generation(
            g,
            [trials[n].name for n in a.trials],
            a.fitness,
            a.reference,
            a.correlation,
            [trials[n].kind == RANDOM for n in a.trials],
        )
        for g, a in sorted(run.record.generations.items())
        if a.fitness is not None
    ]


def section(run: Run) -> dict[str, Any]:
    """Three figures, and a sentence about the last generation."""
    history = generations(run)
    if not history:
        return {"missing": "No generation has been scored yet."}
    by_metric = run.config.get("evaluate", {}).get("fitness") == "metric"
    unit = "fitness (the tasks' metrics)" if by_metric else "fitness (smooth score)"
    references = {run.record.trials[n].name for n in run.references.values()}
    reference = " / ".join(sorted(references)) or "reference anchor"
    failed = sum(value is None for g in history for value in g.fitness)
    gains = any(g.reference is not None for g in history)
    return {
        "fitness": _fitness(history, unit, reference),
        "gain": _gain(history) if gains else None,
        "correlation": None if by_metric else _correlation(history),
        "by_metric": by_metric,
        "warnings": [w["message"] for w in run.record.warnings if w["kind"] == "correlation"],
        "reference": reference,
        "said": _said(history, reference),
        "failed": f"{plural(failed, 'trial')} failed and are not drawn."
        if failed > 1
        else ""
        if not failed
        else "1 trial failed and is not drawn.",
        "ended": _ended(run),
    }


def _fitness(history: Sequence[Generation], unit: str, reference: str) -> Markup:
    figure = Figure(WIDTH, 350, "Fitness by generation")
    across = _across(history, 84, WIDTH - 14)
    values = [v for g in history for v in [*g.known, *g.drawn, g.reference] if v is not None]
    up = scale(values, 296, 34)
    figure.y_axis(up, 84, WIDTH - 14, ticks(up.low, up.high), unit)
    figure.x_axis(across, 296, 296, _marks(history), "generation")
    size = 3 if len(history) <= 40 else 2
    for g in history:
        for name, value, random in zip(g.names, g.fitness, g.is_random, strict=True):
            if value is not None:
                tip = f"{name}, generation {g.number}: {number(value)}"
                kind = "f4" if random else "f1 faint"
                figure.dot(across(g.number), up(value), kind, tip, size, square=random)
    _series(figure, [(across(g.number), up(max(g.known))) for g in history if g.known], "s1")
    middle = [(across(g.number), up(statistics.median(g.known))) for g in history if g.known]
    _series(figure, middle, "s1 dotted", "f1", small=True)
    reference_line = [
        (across(g.number), up(g.reference)) for g in history if g.reference is not None
    ]
    _series(figure, reference_line, "s2 dashed", "f2", square=True)
    entries = [("line", "s1", "best of the generation"), ("line", "s1 dotted", "median")]
    entries.append(("dot", "f1 faint", "each trial"))
    if any(g.drawn for g in history):
        entries.append(("square", "f4", "random"))
    if reference_line:
        entries.append(("line", "s2 dashed", f"{reference} on the same items"))
    figure.legend(84, 16, entries)
    return figure.markup()


def _gain(history: Sequence[Generation]) -> Markup:
    """Best and median minus the reference, which sees the same items."""
    figure = Figure(_HALF, 280, "Gain over the reference anchor by generation")
    across = _across(history, 84, _HALF - 12)
    best = [(g.number, max(g.known) - g.reference) for g in _comparable(history)]
    half = [(g.number, statistics.median(g.known) - g.reference) for g in _comparable(history)]
    drawn = [
        (g.number, v - g.reference) for g in history for v in g.drawn if g.reference is not None
    ]
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
    if not known:
        return None
    figure = Figure(_HALF, 280, "Rank correlation of the smooth score with the metric")
    across = _across(history, 84, _HALF - 12)
    up = Scale(-1.0 if min(v for _, v in known) < 0 else 0.0, 1.0, 226, 34)
    figure.y_axis(up, 84, _HALF - 12, ticks(up.low, up.high), "rank correlation")
    figure.x_axis(across, 226, 226, _marks(history, 6), "generation")
    figure.rule(84, up(0), _HALF - 12, up(0), "zero")
    _series(figure, [(across(g), up(v)) for g, v in known], "s3", "f3")
    figure.legend(84, 16, [("line", "s3", "smooth score against the metric")])
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


def _comparable(history: Sequence[Generation]) -> list[Any]:
    return [g for g in history if g.known and g.reference is not None]


def _across(history: Sequence[Generation], start: float, end: float) -> Scale:
    """Generations on a scale with half a generation's room at either side."""
    first, last = history[0].number, history[-1].number
    room = max(0.5, 0.02 * (last - first))
    return Scale(first - room, last + room, start, end)


def _marks(history: Sequence[Generation], count: int = 12) -> list[tuple[float, str]]:
    first, last = history[0].number, history[-1].number
    return ticks(first, max(last, first + 1e-6), count, whole=True) or [(first, str(first))]


def _said(history: Sequence[Generation], reference: str) -> str:
    last = next((g for g in reversed(history) if g.known), None)
    if last is None:
        return "Every trial failed."
    said = f"In generation {last.number} the best trial scores {number(max(last.known))}"
    if last.reference is None:
        return said + "."
    gain, half = max(last.known) - last.reference, statistics.median(last.known) - last.reference
    return (
        f"{said}, {number(gain, sign=True)} over {reference} on the same items; the median trial "
        f"{number(half, sign=True)}."
    )


def _ended(run: Run) -> str:
    ended = run.record.search_ended
    if ended is None:
        return "The search has not ended."
    return f"The search {ended_text(ended)}."
