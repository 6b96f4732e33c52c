"""Computes an optimizer's feedback on a generation: gains, objectives, constraints, simplicity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evomerge import optimizers as search
from evomerge.evaluate.outcomes import OutcomeRow, ScoreKind
from evomerge.optimizers.coordinates import Coordinates
from evomerge.recipe.space.dimension import Point
from evomerge.study.context import StudyRun
from evomerge.study.phases.baseline import Baseline
from evomerge.study.statistics.constraints import Limits, demoted
from evomerge.study.statistics.outcome import scores, sign

Rows = Sequence[OutcomeRow] | None
FitnessValue = float | Sequence[float] | None


@dataclass(frozen=True)
class GenerationFeedback:
    """Objectives and violations of a generation; None where the study has no such goal.

    Attributes:
        objectives: Each trial's gain over the reference by task, higher is better.
        violations: How far each trial breaks the constraints, 0 where it keeps them.
    """

    objectives: list[list[float] | None] | None
    violations: list[float | None] | None


class Feedback:
    """Turns outcomes into the values that the optimizer learns from.

    Args:
        study: The study.
        baseline: Its anchors; constraints are limits on what these score.
        reference: The number of the reference anchor.
        start: Where the search starts; simplicity is nearness to it.
    """

    def __init__(
        self, study: StudyRun, baseline: Baseline, reference: int, start: Point | None
    ) -> None:
        self._study = study
        self._tasks = study.record.tasks_of("search")
        self._field = study.modes[0]
        self._is_pareto = study.config.search.objective == "pareto"
        self._price = study.config.search.simplicity
        self._coordinates = Coordinates(study.space.dimensions)
        self._start = tuple(d.start for d in study.space.dimensions) if start is None else start
        constraints = study.config.search.parsed_constraints
        self._limits: Limits | None = None
        if constraints:
            scored = baseline.rows(self._field)
            kinds = {trial.number: trial.kind for trial in baseline.trials}
            baseline_rows = [(kinds[number], rows) for number, rows in scored.items()]
            self._limits = Limits(constraints, baseline_rows, self._tasks, self._field)
            self._known = scored[reference]

    def of_generation(self, rows: Sequence[Rows], reference: Rows) -> GenerationFeedback:
        """Return a generation's objectives and violations, given the reference's outcomes."""
        objectives: list[list[float] | None] | None = None
        violations: list[float | None] | None = None
        if self._is_pareto:
            names = objective_names(self._study)
            theirs = (
                self._by_task(reference) if reference is not None else dict.fromkeys(names, 0.0)
            )
            objectives = []
            for outcomes in rows:
                mine = None if outcomes is None else self._by_task(outcomes)
                objectives.append(None if mine is None else [mine[t] - theirs[t] for t in names])
        if self._limits is not None:
            violations = []
            for outcomes in rows:
                if outcomes is None or reference is None:
                    violations.append(None if outcomes is None else 0.0)
                else:
                    violations.append(
                        self._limits.violation_beside(outcomes, reference, self._known)
                    )
        return GenerationFeedback(objectives, violations)

    def values(
        self,
        optimizer: search.Optimizer,
        points: Sequence[Point],
        values: Sequence[float | None],
        at_reference: float | None,
        feedback: GenerationFeedback,
    ) -> list[FitnessValue]:
        """Return the values for `tell` of the first len(points) trials.

        An optimizer that compares generations gets each point's lead over the reference anchor on
        the same items, so that easy items do not count as a merit of the points.
        """
        n = len(points)
        prices = [self._price and self._price * self._distance(point) for point in points]
        if feedback.objectives is None:
            less = at_reference if optimizer.compares_generations and at_reference else 0.0
            columns = [[None if v is None else v - less for v in values[:n]]]
        else:
            gains = feedback.objectives[:n]
            width = len(objective_names(self._study))
            columns = [[None if v is None else v[k] for v in gains] for k in range(width)]
        paid = [
            [None if v is None else v - price for v, price in zip(column, prices, strict=True)]
            for column in columns
        ]
        if feedback.violations is not None:
            paid = [demoted(column, feedback.violations[:n]) for column in paid]
        if feedback.objectives is None:
            return list(paid[0])
        rows = zip(*paid, strict=True)
        return [None if None in row else [v for v in row if v is not None] for row in rows]

    def _distance(self, point: Point) -> float:
        return distance(self._coordinates, point, self._start)

    def _by_task(self, rows: Sequence[OutcomeRow]) -> dict[str, float]:
        by_task = scores(rows, self._tasks, self._field)
        missing = any(row.smooth is None for row in rows)
        field: ScoreKind = "metric" if missing else self._field
        return {task: sign(self._tasks[task], field) * score for task, score in by_task.items()}


def objective_names(study: StudyRun) -> list[str]:
    """Return the tasks that count, in the study's order: the objectives of a Pareto search."""
    tasks: Mapping[str, float] = {t.name: t.weight for t in study.config.evaluate.tasks}
    apart = {t for t, pool in study.config.evaluate.items.pool_of.items() if pool != "search"}
    tasks = {task: weight for task, weight in tasks.items() if task not in apart}
    return [task for task, weight in tasks.items() if weight > 0]


def distance(coordinates: Coordinates, point: Point, start: Point) -> float:
    """Return the mean share of the ranges between two points; another choice counts as 1.

    >>> from evomerge.recipe.space.dimension import Dimension
    >>> space = Coordinates([Dimension("a"), Dimension("b", low=0.0, high=4.0)])
    >>> distance(space, (0.5, 1.0), (0.0, 0.0))
    0.375
    """
    apart = np.abs(coordinates.encode(point) - coordinates.encode(start))
    for column, i in enumerate(coordinates.free):
        if coordinates.dimensions[i].kind == "categorical" and point[i] != start[i]:
            apart[column] = 1.0
    return float(apart.mean())
