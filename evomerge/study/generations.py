"""Phase 2: the search, generation after generation, each on its own items."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evomerge import search
from evomerge.dimension import Point
from evomerge.errors import UserError
from evomerge.space import SearchSpace
from evomerge.study.baseline import Baseline
from evomerge.study.config import StudyConfig, seconds
from evomerge.study.control import ControlArm
from evomerge.study.correlation import LOW, rank_correlation
from evomerge.study.ledger import Items
from evomerge.study.open_study import OpenStudy
from evomerge.study.pools import generation_items
from evomerge.study.telling import Telling, Told

LEADERS = 24  # leaders of so many last generations say, with the anchors, what correlates


def start_optimizer(
    config: StudyConfig, space: SearchSpace, start: Point | None
) -> search.Optimizer:
    """The study's optimizer, ready to be asked.

    Raises:
        UserError: There is no such optimizer, or it cannot search this space.
    """
    told = config.search
    optimizer = search.create(told.optimizer, **told.options)
    seed = None if "seed" in told.options else told.seed
    counted = sum(task.weight > 0 for task in config.evaluate.tasks)
    objectives = counted if told.objective == "pareto" else 1
    optimizer.start(space.dimensions, seed, start, told.population, objectives)
    return optimizer


class Generations:
    """The search of one study.

    Args:
        study: The study.
        baseline: Its anchors.
        started: When this run began, on the monotonic clock: the deadline counts from there.
        is_stopped: Asked before a new generation; true ends the search.
    """

    def __init__(
        self,
        study: OpenStudy,
        baseline: Baseline,
        started: float,
        is_stopped: Callable[[], bool] = lambda: False,
    ):
        self._study = study
        self._baseline = baseline
        self._started = started
        self._is_stopped = is_stopped
        self._reference = baseline.reference
        self._pairs = baseline.pairs()
        self._leaders: deque[tuple[float, float]] = deque(maxlen=LEADERS)

    def run(self) -> search.Optimizer:
        """Search until trials, time or the optimizer's own ideas are used up."""
        study, told = self._study, self._study.config.search
        start = self._baseline.start()
        optimizer = start_optimizer(study.config, study.space, start)
        self._telling = Telling(study, self._baseline, self._reference, start)
        share = told.random_share if optimizer.adapts else 0.0
        control = ControlArm(study.space.dimensions, study.seed, share)
        asked, generation, reason = 0, 0, "trials"
        ended = study.record.search_ended
        while True:
            if optimizer.stopped:
                reason = optimizer.stopped
                break
            next_up = optimizer.population + control.due(optimizer.population)
            if generation and asked + next_up > told.trials:
                break
            if generation not in study.record.generations:
                early = self._ended_early(ended)
                if early:
                    reason = early
                    break
            points = optimizer.ask()
            extra = control.points(len(points))
            asked += len(points) + len(extra)
            optimizer.tell(points, *self._generation(optimizer, generation, points, extra))
            self._check_that_some_live(generation)
            generation += 1
        if ended is None or (ended["trials"], ended["wanted"]) != (asked, told.trials):
            end = {"reason": reason, "trials": asked, "wanted": told.trials}
            study.ledger.log({"event": "search_ended", **end})
        return optimizer

    def _generation(
        self,
        optimizer: search.Optimizer,
        generation: int,
        points: Sequence[Point],
        extra: Sequence[Point],
    ) -> tuple[list[Told], list[search.ItemScores | None]]:
        """Score one generation and write down its fitness; returns what the optimizer is told."""
        study, reference = self._study, self._reference
        items = generation_items(
            study.pools["search"],
            study.config.evaluate.items_per_task,
            study.seed,
            0 if optimizer.same_items else generation,
        )
        recipes = [study.space.fill(point) for point in (*points, *extra)]
        if generation not in study.record.generations:
            study.ask_generation(generation, (*points, *extra), recipes, items, len(extra))
        ask = study.record.generations[generation]
        study.check_same(ask.trials, recipes, f"generation {generation}, trial")
        field = study.config.evaluate.fitness
        rows = study.outcomes([*ask.trials, reference], items, field, "search")
        values = [None if r is None else study.fitness(r, field) for r in map(rows.get, ask.trials)]
        correlation = self._correlation(ask.trials, values, items)
        held = rows[reference]
        at_reference = None if held is None else study.fitness(held, field)
        account = self._telling.account([rows[number] for number in ask.trials], held)
        if ask.fitness is None:
            self._warn_if_low(correlation, generation)
            study.ledger.log(
                {
                    "event": "told",
                    "generation": generation,
                    "trials": list(ask.trials),
                    "fitness": values,
                    "reference": {
                        "trial": reference,
                        "fitness": at_reference,
                    },
                    "correlation": correlation,
                    **{k: v for k, v in vars(account).items() if v is not None},
                }
            )
        scores: list[search.ItemScores | None] = [
            study.item_scores(rows[number], field) for number in ask.trials[: len(points)]
        ]
        return self._telling.told(optimizer, points, values, at_reference, account), scores

    def _correlation(
        self, trials: Sequence[int], values: Sequence[float | None], items: Items
    ) -> float | None:
        """Rank correlation of the smooth score with the metric, over anchors and leaders so far."""
        study = self._study
        if study.config.evaluate.fitness == "metric":
            return None
        scored = [(v, n) for v, n in zip(values, trials, strict=True) if v is not None]
        if scored:
            value, leader = max(scored, key=lambda pair: (pair[0], -pair[1]))
            rows = study.outcomes([leader], items, "metric", "search")[leader]
            if rows is not None:
                self._leaders.append((value, study.fitness(rows, "metric")))
        return rank_correlation([*self._pairs, *self._leaders])

    def _warn_if_low(self, correlation: float | None, generation: int) -> None:
        """Warn once whenever the smooth score stops ranking as the metric does."""
        record = self._study.record
        before = record.generations.get(generation - 1)
        was_low = before is not None and before.correlation is not None and before.correlation < LOW
        if correlation is None or correlation >= LOW or was_low:
            return
        if not any(warning.get("generation") == generation for warning in record.warnings):
            self._study.ledger.warn(
                "correlation",
                f"generation {generation}: the smooth score ranks recipes unlike the metric (rank "
                f"correlation {correlation:.2f}): consider fitness: metric in a new study",
                generation=generation,
            )

    def _ended_early(self, ended: Mapping[str, Any] | None) -> str | None:
        """Why no new generation begins; an earlier run's end holds until more is asked for."""
        if self._is_stopped():
            return "stopped"
        if self._is_late():
            return "deadline"
        if ended is not None and ended["wanted"] >= self._study.config.search.trials:
            return str(ended["reason"])
        return None

    def _is_late(self) -> bool:
        """Whether the deadline leaves just the time that race and verdict will take."""
        study = self._study
        limit = seconds(study.config.search.deadline)
        if limit is None:
            return False
        paid = study.record.seconds["total"] / max(1, study.record.item_evaluations)
        final = sum(len(ids) for p in ("race", "holdout") for ids in study.pools[p].values())
        reserve = 3 * final * 12 * paid / study.config.workers.count
        return time.monotonic() - self._started > limit - min(reserve, limit / 2)

    def _check_that_some_live(self, generation: int) -> None:
        """Stop when three generations in a row failed as a whole."""
        record = self._study.record
        last = [record.generations[g] for g in range(max(0, generation - 2), generation + 1)]
        if len(last) == 3 and all(not any(v is not None for v in g.fitness or ()) for g in last):
            failure = record.trials[last[-1].trials[0]].failure
            raise UserError(
                "every trial of three generations failed; the last one said: "
                f"{failure.message if failure else 'nothing'}"
            )
