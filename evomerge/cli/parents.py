"""Compares the parents in `evomerge check`: their complementarity, and linear barriers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.evaluate.outcomes import OutcomeRow, ScoreKind
from evomerge.recipe.recipe import Recipe
from evomerge.report.explain import complement_lines
from evomerge.report.numbers import number, plural
from evomerge.study.analysis.barriers import barriers, ends, midpoints
from evomerge.study.analysis.complement import complementarity
from evomerge.study.config import StudyConfig
from evomerge.study.statistics.outcome import Tasks
from evomerge.study.workers.requests import Answer, Evaluate, Scores
from evomerge.study.workers.scheduler import Scheduler, Unit

AT_MOST_SECONDS = 120.0  # what takes longer waits for --parents


def requests(config: StudyConfig, items: Mapping[str, Any]) -> list[Unit]:
    """Return a unit for each model and each midpoint of two; and by the metric for each parent.

    Each is tagged (what, name or names).
    """
    mode, models = config.evaluate.fitness, ends(config)

    def unit(tag: tuple[str, Any], recipe: Recipe, mode: ScoreKind = mode) -> Unit:
        return Unit(recipe.digest, Evaluate(recipe.to_dict(), [items], mode), tag)

    return [
        *(unit(("end", end.name), end.recipe) for end in models),
        *(unit(("metric", e.name), e.recipe, "metric") for e in models if e.kind == "parent"),
        *(unit(("midpoint", pair), recipe) for pair, recipe in midpoints(config).items()),
    ]


def parents_lines(
    config: StudyConfig, scheduler: Scheduler, units: list[Unit], tasks: Tasks
) -> list[str]:
    """Score the units, and say in words what came out; what fails is left out."""
    rows: dict[str, dict[Any, list[OutcomeRow]]] = {"end": {}, "metric": {}, "midpoint": {}}

    def keep(unit: Unit, answer: Answer, _worker: int) -> None:
        if isinstance(answer, Scores):
            what, name = unit.tag
            rows[what][name] = [OutcomeRow(*row) for row in answer.rows]

    scheduler.run(units, keep)
    parents = [unit.tag[1] for unit in units if unit.tag[0] == "metric"]
    by_metric = {name: rows["metric"][name] for name in parents if name in rows["metric"]}
    between = {
        pair: midpoint_rows
        for pair, midpoint_rows in rows["midpoint"].items()
        if {*pair} <= {*rows["end"]}
    }
    mode = config.evaluate.fitness
    n_items = len(next(iter(between.values()), []))
    return [
        *complement_lines(complementarity(by_metric, tasks)),
        *barrier_lines(barriers(rows["end"], between, tasks, mode), n_items),
    ]


def barrier_lines(pairs: list[dict[str, Any]], n_items: int) -> list[str]:
    """Return the scores of the midpoints and what they mean for the search."""
    if not pairs:
        return []
    lines = [
        f"between two models, {plural(n_items, 'item')}: how far the score of their average falls "
        "below the mean of theirs; where it does, they lie in different basins and averages lose"
    ]
    lines += [f"  {pair['a']} + {pair['b']}: {_words(pair)}" for pair in pairs]
    return lines


def _words(pair: Mapping[str, Any]) -> str:
    drop = float(pair["barrier"])
    size = f"{number(abs(drop))} {'below' if drop > 0 else 'above'}"
    low, high = (number(-float(pair[end]), sign=True) for end in ("high", "low"))
    if pair["low"] > 0:
        advice = "a barrier: stay near one of them, or merge sparsely (TIES, DARE)"
    elif pair["high"] < 0:
        advice = "no barrier: averaging gains"
    else:
        advice = "no barrier seen on so few items"
    return f"{size} ({low} to {high}), {advice}"
