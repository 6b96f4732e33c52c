"""Serves external evaluation: the caller asks for trials one by one and tells their scores.

The journal and the order are those of a search with workers: first the anchors, then generations;
the optimizer learns from a generation once all of it has scores. So the caller may stop at any
moment and continue later: a trial without a result is handed out again.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from evomerge import optimizers as search
from evomerge.core.errors import StudyEnded, UserError, unknown
from evomerge.core.version import __version__
from evomerge.evaluate.outcomes import LARGEST_SCORE
from evomerge.recipe.space.dimension import Point
from evomerge.study.context import StudyRun
from evomerge.study.journal.events import (
    FailedEvent,
    ReferenceFitness,
    ScoredEvent,
    StudyEvent,
    ToldEvent,
)
from evomerge.study.journal.trials import AskRecord
from evomerge.study.phases.baseline import asked_anchors, start_point
from evomerge.study.phases.check import refuse_another
from evomerge.study.phases.feedback import objective_names
from evomerge.study.phases.search import start_optimizer
from evomerge.study.statistics.outcome import TaskSpec, weighted


class AskTell:
    """Asks for trials and takes their scores; making one begins or resumes the open study."""

    def __init__(self, study: StudyRun):
        self._study = study
        self._handed: set[int] = set()
        self._optimizer: search.Optimizer | None = None
        self._points: list[Point] | None = None  # proposed, and the optimizer has no feedback yet
        self._finished = 0  # generations that the optimizer has learned from
        section = study.config.search
        if section.constraints or section.simplicity:
            raise UserError(
                "search.constraints and search.simplicity do not work with ask() and tell(): "
                "leave them out, and tell None for a trial that breaks a constraint"
            )
        if search.create(section.optimizer or "catcma", **section.options).learns_from_gradients:
            raise UserError(
                f"search.optimizer: {section.optimizer} follows gradients, which ask() and tell() "
                "have none of: leave it out, or let the study's own workers score: optimize()"
            )
        if section.then is not None:
            raise UserError(
                "search.then does not work with ask() and tell(): leave it out, or let the study's "
                "own workers score: optimize()"
            )
        refuse_another(study, external=True)
        if study.record.study is None:
            study.ledger.log(_study_event(study))

    def ask(self) -> int:
        """Return the number of the next trial to evaluate.

        Raises:
            UserError: All trials of the generation are handed out.
            StudyEnded: The search has ended.
        """
        ask = asked_anchors(self._study, None)
        if all(map(self._has_result, ask.trials)):
            ask = self._generation()
        left = [n for n in ask.trials if not self._has_result(n)]
        free = [n for n in left if n not in self._handed]
        if not free:
            raise UserError(
                f"ask(): all trials of this generation are handed out, and {len(left)} of them "
                f"have no result yet (the first is {left[0]}): call tell() with their scores first"
            )
        self._handed.add(free[0])
        return free[0]

    def tell(self, number: int, scores: Mapping[str, float] | float | None, reason: str) -> None:
        """Record a trial's scores by task, or that it failed (None)."""
        record = self._study.record
        number = _whole(number)
        if number not in record.trials:
            raise UserError(f"tell(): expected a trial that ask() returned, but got {number}")
        if self._has_result(number):
            raise UserError(
                f"tell(): trial {number} has a result already: call tell() once per trial"
            )
        if scores is None:
            self._study.ledger.log(
                FailedEvent(trial=number, phase="search", kind="elsewhere", message=reason)
            )
        else:
            by_task = self._checked(scores)
            self._study.ledger.log(ScoredEvent(trial=number, scores=by_task))
        self._close(record.ask_of(number))

    def _generation(self) -> AskRecord:
        """Return the generation that is to be evaluated now."""
        study, optimizer = self._study, self._begun()
        while True:
            if self._points is None:
                self._check_ended(optimizer)
                self._points = optimizer.ask()
            recipes = [study.space.fill(point) for point in self._points]
            if self._finished not in study.record.generations:
                study.ask_generation(self._finished, self._points, recipes, None)
            ask = study.record.generations[self._finished]
            study.check_same(ask.trials, recipes, f"generation {self._finished}, trial")
            if not all(map(self._has_result, ask.trials)):
                return ask
            values: Sequence[float | Sequence[float] | None] = self._close(ask)
            if study.config.search.objective == "pareto":
                values = [self._objectives(number) for number in ask.trials]
            optimizer.tell(self._points, values)
            self._points, self._finished = None, self._finished + 1

    def _check_ended(self, optimizer: search.Optimizer) -> None:
        """Raise if the optimizer stopped, or one more generation would exceed the trials."""
        if optimizer.stopped:
            raise StudyEnded(f"ask(): the search has ended: {optimizer.stopped}")
        record, wanted = self._study.record, self._study.config.search.trials
        asked = record.n_searched
        fresh = self._finished not in record.generations
        if fresh and asked and asked + optimizer.population > wanted:
            raise StudyEnded(
                f"ask(): the search has ended after {asked} of {wanted} trials; for more, raise "
                "trials"
            )

    def _begun(self) -> search.Optimizer:
        if self._optimizer is None:
            study = self._study
            start = start_point(study, self._anchor_fitness())
            self._optimizer = start_optimizer(study.config, study.space, start)
        return self._optimizer

    def _close(self, ask: AskRecord) -> Sequence[float | None]:
        """Write down the fitness of a generation once every trial of it has a result."""
        if ask.generation is None or not all(map(self._has_result, ask.trials)):
            return ()
        values = [self._fitness(number) for number in ask.trials]
        if ask.fitness is None:
            by_anchor = self._anchor_fitness()
            best = max(by_anchor, key=lambda n: by_anchor[n], default=None)
            reference = None if best is None else ReferenceFitness(best, by_anchor[best])
            self._study.ledger.log(
                ToldEvent(
                    generation=ask.generation,
                    trials=list(ask.trials),
                    fitness=values,
                    correlation=None,
                    reference=reference,
                )
            )
        return values

    def _fitness(self, number: int) -> float | None:
        scores = self._study.record.external_scores.get(number)
        return None if scores is None else weighted(scores, self._study.record.tasks)

    def _objectives(self, number: int) -> list[float] | None:
        scores = self._study.record.external_scores.get(number)
        names = objective_names(self._study)
        return None if scores is None else [scores[task] for task in names]

    def _anchor_fitness(self) -> dict[int, float]:
        values = {n: self._fitness(n) for n in self._study.record.asks[0].trials}
        return {n: value for n, value in values.items() if value is not None}

    def _has_result(self, number: int) -> bool:
        return self._study.record.trials[number].state != "asked"

    def _checked(self, scores: Mapping[str, float] | float) -> dict[str, float]:
        tasks = list(self._study.record.tasks)
        if not isinstance(scores, Mapping):
            if len(tasks) != 1:
                raise UserError(f"tell(): expected a score for each of {tasks}, got {scores!r}")
            scores = {tasks[0]: scores}
        for task in scores:
            if task not in tasks:
                raise UserError(f"tell(): {unknown('task', str(task), tasks)}")
        for task in tasks:
            value = scores.get(task)
            if _number(value) is None:
                raise UserError(
                    f"tell(): expected a number of at most {LARGEST_SCORE:g} for task {task}, but "
                    f"got {value!r}; for a trial that failed, tell None"
                )
        return {task: float(scores[task]) for task in tasks}


def _number(value: Any) -> float | None:
    """A score as the journal holds it, also one of numpy's; ``None`` if it is none."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        score = float(value)
    except OverflowError:
        return None
    return score if abs(score) <= LARGEST_SCORE else None


def _whole(number: Any) -> int:
    """A trial's number, also one of numpy's, as the journal holds it."""
    if isinstance(number, bool) or not isinstance(number, numbers.Integral):
        raise UserError(f"tell(): expected a trial or its whole number, but got {number!r}")
    return int(number)


def _study_event(study: StudyRun) -> StudyEvent:
    tasks: dict[str, TaskSpec] = {
        task.name: {"metric": "score", "higher_is_better": True, "weight": task.weight}
        for task in study.config.evaluate.tasks
        if study.config.evaluate.items.pool_of.get(task.name, "search") == "search"
    }
    return StudyEvent(
        version=__version__,
        config=study.config.to_dict(),
        space=study.space.document,
        dimensions=tuple(study.space.dimensions),
        elsewhere=True,
        protocol="elsewhere",
        fingerprints={},
        parameters=0,
        layers=0,
        device="elsewhere",
        tasks=tasks,
        pools={},
        warnings=[],
    )
