"""Replays a journal's events into the record of a study, and answers questions about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from evomerge.core.garbage import no_collection
from evomerge.recipe.space.dimension import Dimension
from evomerge.study.journal.codec import parse_all, to_json
from evomerge.study.journal.event_marks import Items
from evomerge.study.journal.events import Event
from evomerge.study.journal.journal import JOURNAL, iterate
from evomerge.study.journal.outcomes import Written
from evomerge.study.journal.shards import shards
from evomerge.study.journal.state import StudyState
from evomerge.study.journal.trials import Standing, TrialRecord
from evomerge.study.statistics.comparison import Clusters
from evomerge.study.statistics.outcome import Tasks, fitness, scores, weighted


@dataclass
class Record(StudyState):
    """The state of a study, for resume and for reading.

    Generations see different items, so that fitness alone is not comparable between them; gains
    over the reference anchor are.
    """

    @classmethod
    def from_events(cls, events: Iterable[Event]) -> Self:
        """Replay a journal's events from its beginning."""
        record = cls()
        with no_collection():
            for event in events:
                record.apply(event)
        return record

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Replay the journal of a run folder, also while a study writes it.

        Raises:
            UserError: There is no journal, it is damaged, or it is of a newer format.
        """
        return cls.from_events(parse_all(iterate(directory / JOURNAL)))

    @property
    def tasks(self) -> Tasks:
        """The study's tasks; none before the study begins."""
        return self.study.tasks if self.study else {}

    def tasks_of(self, pool: str) -> Tasks:
        """Return the tasks whose items are in a pool: all, unless some belong to one pool alone."""
        items = self.pools.get(pool)
        return self.tasks if items is None else {t: s for t, s in self.tasks.items() if t in items}

    @property
    def pools(self) -> Mapping[str, Items]:
        """Items by pool and task; empty before the study begins, and with external evaluation."""
        return self.study.pools if self.study else {}

    @property
    def clusters(self) -> Clusters:
        """The items of race and verdict that belong together."""
        return (self.study and self.study.clusters) or {}

    @property
    def config(self) -> Mapping[str, Any]:
        """The study's configuration, as in its file; empty before the study begins."""
        return self.study.config if self.study else {}

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """The dimensions that are searched; none before the study begins."""
        return self.study.dimensions if self.study else ()

    @property
    def leader(self) -> Standing | None:
        """The trial with the highest gain over the reference anchor, the earliest of equals.

        A trial that keeps the constraints is ahead of all that break one; without a reference the
        fitness counts. It is partly luck: a progress display, not a selection. The race selects.
        """
        return max(self.standings(), key=lambda standing: standing.rank, default=None)

    def standings(self) -> Iterator[Standing]:
        """Return every trial of the search that has a fitness, by generation."""
        return (standing for ask in self.generations.values() for standing in ask.standings())

    def gain(self, number: int) -> float | None:
        """Return a trial's gain over the reference anchor, or ``None``; see `Standing`."""
        standings = self.ask_of(number).standings()
        return next((standing.gain for standing in standings if standing.trial == number), None)

    @property
    def n_searched(self) -> int:
        """The number of trials that the search has asked for."""
        return sum(len(ask.trials) for ask in self.generations.values())

    @property
    def n_learned(self) -> int:
        """The number of them in generations whose fitness the optimizer has."""
        asks = self.generations.values()
        return sum(len(ask.trials) for ask in asks if ask.fitness is not None)

    def anchor_scores(self) -> dict[int, float]:
        """Return the scored anchors' fitness by the metric, parents and base included."""
        items = self.asks[0].items if self.asks else None
        tasks, fitness_of = self.tasks_of("search"), {}
        for number, trial in self.trials.items():
            if trial.kind not in ("parent", "base", "anchor"):
                continue
            if number in self.external_scores:  # evaluated externally
                fitness_of[number] = weighted(self.external_scores[number], self.tasks)
            elif items and not self.outcomes.missing(trial.digest, "metric", items):
                rows = self.outcomes.rows(trial.digest, "metric", items)
                fitness_of[number] = fitness(rows, tasks, "metric")
        return fitness_of

    def best_anchors(self, kind: str | None = None) -> list[int]:
        """Return the anchors that are scored by the metric, the best first, the earlier of equals.

        Args:
            kind: Only ``parent``, ``base`` or ``anchor``; ``None`` for all of them.
        """
        by_metric = self.anchor_scores()
        numbers = [n for n in by_metric if kind in (None, self.trials[n].kind)]
        return sorted(numbers, key=lambda number: -by_metric[number])

    def look(self, digest: str, lenders: Iterable[Record] = ()) -> int:
        """Count the winners judged on these held-out items, this recipe included.

        Args:
            digest: The race's winner.
            lenders: Other runs whose outcomes are used; they count where they held out the same.
        """
        if digest in self.looks:
            return self.looks[digest]
        ours = {task: set(ids) for task, ids in self.pools["holdout"].items()}
        others = {
            judged
            for lender in lenders
            for task, ids in lender.pools["holdout"].items()
            if not ours.get(task, set()).isdisjoint(ids)
            for judged in lender.looks
        }
        return max(self.looks.values(), default=0) + len(others - {*self.looks, digest}) + 1

    @property
    def race_winner(self) -> int | None:
        """The trial that the verdict judged; before it, the one that the last race ended with."""
        if self.verdict is not None:
            return self.verdict.race_winner.trial
        return self.races[-1].winner if self.races else None

    @property
    def winner(self) -> TrialRecord | None:
        """The trial that the verdict recommends, which is what is exported; None before it."""
        return None if self.verdict is None else self.trials[self.verdict.winner.trial]

    def status(self) -> dict[str, Any]:
        """Return what ``evomerge status RUN --json`` prints.

        ``trials`` counts all that were asked; of those all that were ever scored; all that failed;
        and all whose fitness the optimizer got. What is none of the last three is in flight.
        """
        states = [trial.state for trial in self.trials.values()]
        leader = self.leader
        return {
            "phase": self.phase,
            "trials": {
                "asked": len(states),
                "scored": states.count("scored") + states.count("told"),
                "failed": states.count("failed"),
                "told": states.count("told"),
            },
            "item_evaluations": self.item_evaluations,
            "best": leader
            and {
                "trial": leader.trial,
                "fitness": leader.fitness,
                "gain": leader.gain,
                "scores": self.scores(leader.trial),
            },
            "seconds": dict(self.seconds),
            "verdict": self.verdict
            and {k: v for k, v in to_json(self.verdict).items() if k != "event"},
        }

    def scores(self, number: int) -> dict[str, float]:
        """Return a trial's mean per task over the items it was asked for, by the task's own metric.

        A task whose metric was not measured there (generation was not run) shows its smooth score.
        """
        if number in self.external_scores:
            return dict(self.external_scores[number])
        trial = self.trials[number]
        items = self.ask_of(number).items or {}
        by_task: dict[str, float] = {}
        for mode in ("smooth", "metric"):
            for task, ids in items.items():
                rows = self.outcomes.rows(trial.digest, mode, {task: ids})
                if rows:
                    measured = all(row.metric is not None for row in rows)
                    by_task |= scores(rows, self.tasks, "metric" if measured else "smooth")
        return by_task

    def written(self, number: int) -> Written:
        """Count the fates of answers that a trial's recipe generated, in all phases together."""
        return self.outcomes.written(self.trials[number].digest, self.generating)

    @property
    def generating(self) -> list[str]:
        """The tasks whose answers are generated."""
        specs = self.tasks.items()
        return [task for task, spec in specs if spec.get("output_type") == "generate_until"]

    def batches_of(self, number: int) -> tuple[str | None, ...] | None:
        """Return the batches that a trial was scored in, for each shard of its items.

        ``None`` in the place of a shard whose items were not all scored together, and instead of
        the tuple where nothing fixed was asked for or the trial has no outcomes.
        """
        items, digest = self.ask_of(number).items, self.trials[number].digest
        size = None if self.study is None else self.study.shard_items
        mode = self.config["evaluate"]["fitness"]
        if items is None or size is None or not self.outcomes.rows(digest, mode, items):
            return None
        return self.batches.of(digest, mode, shards(items, size))
