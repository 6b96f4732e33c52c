"""Phase 1 scores the anchors on one item set: the search starts there and must beat them."""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.core.errors import UserError
from evomerge.evaluate.outcomes import OutcomeRow, ScoreKind
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.space.dimension import Point
from evomerge.recipe.space.inverse import point_of
from evomerge.study.context import StudyRun
from evomerge.study.journal.trials import AskRecord, TrialRecord
from evomerge.study.phases.anchors import anchors
from evomerge.study.statistics.pools import generation_items
from evomerge.study.wanted import Items


class Baseline:
    """The anchors of a study; making it scores them, by the smooth score and by the metric."""

    def __init__(self, study: StudyRun):
        self._study = study
        evaluate = study.config.evaluate
        per_task = 2 * evaluate.items_per_task
        pool = study.pools["search"]
        items = generation_items(pool, per_task, study.seed, -1, evaluate.answers_of)
        ask = asked_anchors(study, items)
        for mode in study.modes:
            study.outcomes(ask.trials, items, mode, "anchors")
        self._numbers = ask.trials

    @property
    def trials(self) -> list[TrialRecord]:
        """The anchors as the record has them now."""
        return [self._study.record.trials[number] for number in self._numbers]

    def rows(self, field: ScoreKind) -> dict[int, list[OutcomeRow]]:
        """Return outcomes of the anchors that could be scored, by ``smooth`` or ``metric``."""
        items = self._study.record.asks[0].items or {}
        scored = self._study.outcomes(self._numbers, items, field, "anchors")
        return {number: rows for number, rows in scored.items() if rows is not None}

    def scores(self, field: ScoreKind) -> dict[int, float]:
        """Return the fitness of the anchors that could be scored."""
        return {n: self._study.fitness(rows, field) for n, rows in self.rows(field).items()}

    @property
    def reference(self) -> int:
        """The anchor that is best by the metric.

        Raises:
            UserError: No anchor could be scored.
        """
        best = self._study.record.best_anchors()
        if not best:
            cause = next(t.failure for t in self.trials if t.failure is not None)
            raise UserError(f"no anchor could be scored: {cause.message}")
        return best[0]

    def pairs(self) -> list[tuple[float, float]]:
        """Return (smooth, metric) of every anchor."""
        smooth = self.scores(self._study.modes[0])
        metric = self.scores("metric")
        return [(smooth[number], metric[number]) for number in smooth if number in metric]

    def start(self) -> Point | None:
        """Return the start of the search: the best anchor that the space holds."""
        return start_point(self._study, self.scores(self._study.modes[0]))


def asked_anchors(study: StudyRun, items: Items | None) -> AskRecord:
    """Return the anchors, asked before anything else, to be scored on these items."""
    wanted = anchors(study.config, study.data)
    if not study.record.asks:
        study.ask([(a.kind, a.name, None, a.recipe) for a in wanted], None, items)
    ask = study.record.asks[0]
    study.check_same(ask.trials, [a.recipe for a in wanted], "anchor")
    return ask


def start_point(study: StudyRun, scored: Mapping[int, float]) -> Point | None:
    """Return the point of the best of these trials that the space holds; ``None`` without one."""
    for number in sorted(scored, key=lambda n: -scored[n]):
        point = point_of(study.space, Recipe.from_dict(study.record.trials[number].recipe))
        if point is not None:
            return point
    return None
