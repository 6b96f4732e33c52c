"""Measures the linear barrier between two parents, at the middle of the line between them.

Frankle 2020, https://arxiv.org/abs/1912.05671 (linear mode connectivity): where the middle of two
models is worse than they are on average, they lie in different basins, and averages of them lose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from evomerge.evaluate.outcomes import OutcomeRow
from evomerge.recipe.recipe import Recipe
from evomerge.study.config import StudyConfig
from evomerge.study.phases.anchors import Anchor, anchors
from evomerge.study.statistics.outcome import Tasks, fitness, item_scores
from evomerge.study.statistics.paired import paired_difference

Pair = tuple[str, str]


def ends(config: StudyConfig) -> list[Anchor]:
    """Return the parents and the base, by themselves."""
    return [anchor for anchor in anchors(config) if anchor.kind in ("parent", "base")]


def midpoints(config: StudyConfig) -> dict[Pair, Recipe]:
    """Return the average of every two of them, parents first, by their names."""
    recipes = {}
    for a, b in combinations(ends(config), 2):
        models = [entry.model for end in (a, b) for entry in end.recipe.models]
        halves = [{"model": model, "parameters": {"weight": 0.5}} for model in models]
        recipes[a.name, b.name] = Recipe.from_dict({**a.recipe.to_dict(), "models": halves})
    return recipes


def barriers(
    at_ends: Mapping[str, Sequence[OutcomeRow]],
    at_midpoints: Mapping[Pair, Sequence[OutcomeRow]],
    tasks: Tasks,
    score_kind: Any,
) -> list[dict[str, Any]]:
    """Measure how far the score at each midpoint is below the line between the two ends.

        barrier = (s_a + s_b) / 2 - s_middle

    Args:
        at_ends: Outcomes of the models, by name.
        at_middles: Outcomes of the averages, on the same items.
        tasks: The study's tasks.
        score_kind: ``smooth`` or ``metric``.

    Returns:
        For each pair ``a``, ``b``, the score at the ``middle``, the ``barrier`` (negative where the
        middle is above the line) and its paired 95 % interval ``low`` to ``high``; the highest
        barrier first.
    """
    higher: Tasks = {task: {**spec, "higher_is_better": True} for task, spec in tasks.items()}
    measured = []
    for (a, b), rows in at_midpoints.items():
        one, other, middle = (
            item_scores(each, tasks, score_kind) for each in (at_ends[a], at_ends[b], rows)
        )
        straight = {t: [(one[t][i] + other[t][i]) / 2 for i in middle[t]] for t in middle}
        reached = {task: list(values.values()) for task, values in middle.items()}
        above = paired_difference(straight, reached, higher)
        measured.append(
            {
                "a": a,
                "b": b,
                "middle": fitness(rows, tasks, score_kind),
                "barrier": above.difference,
                "low": above.low,
                "high": above.high,
            }
        )
    return sorted(measured, key=lambda pair: -float(str(pair["barrier"])))
