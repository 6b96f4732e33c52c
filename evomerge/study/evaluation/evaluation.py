"""Evaluates models on whole tasks and compares them item by item; what is stored is not paid again.

Each model is scored under its own config and tokenizer, so that its scores are those of the stock
`lm_eval` command. Scores are stored shard by shard: after a kill the same call goes on.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.core.errors import UserError
from evomerge.core.schema import renamed
from evomerge.evaluate.outcomes import Item, OutcomeRow
from evomerge.study.evaluation.entrants import Entrant
from evomerge.study.evaluation.item_store import ItemScore, ItemStore
from evomerge.study.journal.shards import shards
from evomerge.study.phases.check import task_specs
from evomerge.study.statistics.comparison import Comparison, compare
from evomerge.study.statistics.mean_interval import Estimate, mean_interval
from evomerge.study.statistics.outcome import TaskSpec
from evomerge.study.statistics.pools import clusters, together
from evomerge.study.wanted import Items
from evomerge.study.workers.pool import open_pool
from evomerge.study.workers.requests import (
    Answer,
    Describe,
    Description,
    Evaluate,
    ExpectedParents,
    Failure,
    Scores,
)
from evomerge.study.workers.scheduler import Scheduler, Unit

ALL = ""  # stands for all tasks together


@dataclass(frozen=True)
class Progress:
    """Says how far the evaluation of a model is.

    Attributes:
        model: Its name.
        items: How many items it has; 0 before it is loaded.
        scored: How many have a score by now.
        stored: How many of these had one before.
        seconds: Since its tasks were loaded.
    """

    model: str
    items: int
    scored: int
    stored: int
    seconds: float


Listener = Callable[[Progress], None]


@dataclass(frozen=True)
class Measured:
    """One model's scores.

    Attributes:
        name: As it was given.
        scores: By task, and of all together under `ALL`: in the metric's direction by task; of all,
            a metric of which less is better counts with a minus.
        values: Each item's, by task.
        stored: How many items had a score before.
        errors: A message for each item that could not be graded; it counts as wrong.
    """

    name: str
    scores: Mapping[str, Estimate]
    values: Mapping[str, Sequence[float]]
    stored: int
    errors: Sequence[str]


@dataclass(frozen=True)
class Evaluation:
    """Several models on the same items.

    Attributes:
        tasks: Metrics, directions and weights.
        items: Document numbers by task.
        models: In the order given.
        differences: For each model but the first, by task and of all: that model minus the first,
            positive where it is better.
        warnings: About tasks.
    """

    tasks: Mapping[str, TaskSpec]
    items: Items
    models: Sequence[Measured]
    differences: Mapping[str, Mapping[str, Comparison]]
    warnings: Sequence[str]


@dataclass(frozen=True)
class _Scored:
    """One model's outcomes, with what a worker said of the tasks."""

    rows: Sequence[OutcomeRow]
    evaluation: Mapping[str, Any]
    stored: int
    errors: Sequence[str]

    def of(self, tasks: Collection[str]) -> list[OutcomeRow]:
        """Return the outcomes of some tasks."""
        return [row for row in self.rows if row.task in tasks]


def evaluate(
    models: Sequence[Entrant],
    store: Path,
    limit: int | None = None,
    listener: Listener | None = None,
) -> Evaluation:
    """Score models on tasks, and compare each with the first.

    Args:
        models: What to score, under which settings.
        store: A folder for scores of items; it may hold those of other models and tasks.
        limit: Take the first so many documents of each task.
        listener: Hears of every shard.

    Raises:
        UserError: A model or a task cannot be used, or models see different documents.
    """
    scored = [_scored(model, store, limit, listener or (lambda _: None)) for model in models]
    first = scored[0]
    for model, other in zip(models, scored, strict=True):
        if other.evaluation["item_keys"] != first.evaluation["item_keys"]:
            raise UserError(
                f"{model.name}: its tasks have other documents than those of {models[0].name}: "
                "run the same command again, with data that does not change meanwhile"
            )
    specs, items = task_specs(first.evaluation), _limited(first.evaluation["items"], limit)
    joined = clusters(together(first.evaluation), {ALL: items})
    labels = {t: [joined.get(t, {}).get(i, (t, i)) for i in ids] for t, ids in items.items()}
    groups: dict[str, dict[str, TaskSpec]] = {
        task: {task: {**spec, "weight": 1.0}} for task, spec in specs.items()
    }
    groups |= {ALL: specs} if len(specs) > 1 else {}
    measured = []
    for model, one in zip(models, scored, strict=True):
        values = {task: [row.metric or 0.0 for row in one.of({task})] for task in specs}
        scores = {n: mean_interval(values, tasks, labels=labels) for n, tasks in groups.items()}
        measured.append(Measured(model.name, scores, values, one.stored, one.errors))
    differences = {
        model.name: {
            name: compare(one.of(tasks), first.of(tasks), tasks, clusters=joined)
            for name, tasks in groups.items()
        }
        for model, one in zip(models[1:], scored[1:], strict=True)
    }
    warnings = list(dict.fromkeys(w for one in scored for w in one.evaluation["warnings"]))
    return Evaluation(specs, items, measured, differences, warnings)


def _scored(model: Entrant, store: Path, limit: int | None, listener: Listener) -> _Scored:
    """Score what the store lacks of one model, and return all."""
    store.mkdir(parents=True, exist_ok=True)
    listener(Progress(model.name, 0, 0, 0, 0.0))
    with open_pool(model.config, store / "workers.log") as pool:
        scheduler = Scheduler(pool)
        describe = Describe(model.recipe.to_dict(), item_digests=True)
        description = scheduler.ask(describe, Description)
        evaluation = description.evaluation
        keys = {
            (task, i): key
            for task, ids in _limited(evaluation["items"], limit).items()
            for i, key in zip(ids, evaluation["item_digests"][task], strict=False)
        }
        with closing(ItemStore(store / _digest(model, description))) as known:
            scoring = _Scoring(model, keys, known, listener)
            parents = ExpectedParents(description.stamp or "", description.fingerprints)
            recipe, size = model.recipe.to_dict(), model.config.evaluate.rows_per_batch
            units = [
                Unit(
                    str(number),
                    Evaluate(recipe, [shard], "metric", parents, ensemble=model.ensemble),
                    number,
                )
                for number, shard in enumerate(shards(scoring.missing, size))
            ]
            scheduler.run(units, scoring.take)
    return _Scored(scoring.rows, evaluation, scoring.stored, scoring.errors)


class _Scoring:
    """Gathers one model's scores: those that the store has, and those that workers answer.

    Attributes:
        stored: How many the store had.
        errors: A message for each item that could not be graded.
    """

    def __init__(
        self,
        model: Entrant,
        keys: Mapping[Item, str],
        known: ItemStore,
        listener: Listener,
    ) -> None:
        self._model, self._keys, self._known, self._listener = model, keys, known, listener
        self._scores = {i: score for i, key in keys.items() if (score := known.get(key))}
        self.stored = len(self._scores)
        self.errors: list[str] = []
        self._began = time.monotonic()
        self._report()

    @property
    def missing(self) -> dict[str, list[int]]:
        """The items without a score, by task."""
        missing: dict[str, list[int]] = {}
        for task, i in self._keys:
            if (task, i) not in self._scores:
                missing.setdefault(task, []).append(i)
        return missing

    @property
    def rows(self) -> list[OutcomeRow]:
        """All outcomes, in the items' order."""
        scores = ((task, i, self._scores[task, i]) for task, i in self._keys)
        return [OutcomeRow(task, i, score.metric, None, *score[1:]) for task, i, score in scores]

    def take(self, _: Unit, answer: Answer, _worker: int) -> None:
        """Store a shard's scores, but for those of items that could not be graded."""
        if isinstance(answer, Failure):
            raise UserError(f"{self._model.name}: {answer.message}")
        assert isinstance(answer, Scores)
        rows = [OutcomeRow(*row) for row in answer.rows]
        new = {(row.task, row.doc_id): ItemScore.of(row) for row in rows}
        failed = {(task, i) for task, i, _ in answer.errors}
        self._known.add({self._keys[i]: score for i, score in new.items() if i not in failed})
        self._scores.update(new)
        self.errors += [f"task '{task}', document {i}: {why}" for task, i, why in answer.errors]
        self._report()

    def _report(self) -> None:
        scored, seconds = len(self._scores), time.monotonic() - self._began
        self._listener(Progress(self._model.name, len(self._keys), scored, self.stored, seconds))


def _digest(model: Entrant, description: Description) -> str:
    """Hash what decides scores besides the tasks: the weights, however their models are named."""
    recipe = renamed(model.recipe.to_dict(), description.fingerprints)
    about = [recipe, description.generation, model.config.scored_in]
    about += [model.ensemble] if model.ensemble else []
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


def _limited(items: Items, limit: int | None) -> dict[str, list[int]]:
    return {task: list(ids)[:limit] for task, ids in items.items()}
