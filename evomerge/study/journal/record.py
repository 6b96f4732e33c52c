"""The record: a journal's events replayed into the state of a study, for resume and for reading.

Needs no torch, so a run can be looked at on any laptop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from evomerge.core.garbage import no_collection
from evomerge.evaluate.outcomes import ScoreKind
from evomerge.study.journal.batches import BatchTable
from evomerge.study.journal.outcomes import OutcomeTable, Written
from evomerge.study.journal.shards import shards
from evomerge.study.journal.trials import AskRecord, Failure, Standing, State, TrialRecord
from evomerge.study.statistics.outcome import Tasks, fitness, scores, weighted

Event = Mapping[str, Any]
Phase = Literal["check", "anchors", "search", "race", "verdict", "done"]


@dataclass
class Record:
    """The state of a study so far; `apply` adds one event.

    Attributes:
        study: The ``study`` event (config, space, tasks, pools, fingerprints), or None.
        trials: By number.
        asks: In the order of asking, anchors included.
        outcomes: By (digest, mode, task, doc id); the first delivery counts, later ones do not.
        batches: The batches that outcomes come from.
        races: The ``raced`` events.
        chosen: The ``chosen`` events: why another than a race's leader was taken.
        changes: The ``changed`` events: what differed when the study was resumed all the same.
        warnings: The ``warning`` events.
        search_ended: The last ``search_ended`` event, or None.
        verdict: The last ``verdict`` event, or None.
        exported: The last ``exported`` event, or None.
        seconds: Totals over all workers, ``build``, ``forward`` and ``total``.
        paid: Worker seconds and items by score kind (``smooth``, ``metric``), reused ones aside.
        item_evaluations: Outcomes journalled, repeated ones included: what was paid for.
        reused: Outcomes taken from other runs.
        halvings: How often batches were halved, because a worker ran out of memory.
        phase: Where the study is. ``done`` begins with the verdict, before the export.
        generations: The search's asks by generation.
        told_scores: Scores by task of the trials that were evaluated elsewhere.
    """

    study: Event | None = None
    trials: dict[int, TrialRecord] = field(default_factory=dict)
    asks: list[AskRecord] = field(default_factory=list)
    outcomes: OutcomeTable = field(default_factory=OutcomeTable)
    batches: BatchTable = field(default_factory=BatchTable)
    races: list[Event] = field(default_factory=list)
    chosen: list[Event] = field(default_factory=list)
    changes: list[Event] = field(default_factory=list)
    warnings: list[Event] = field(default_factory=list)
    search_ended: Event | None = None
    verdict: Event | None = None
    exported: Event | None = None
    seconds: dict[str, float] = field(
        default_factory=lambda: {"build": 0.0, "forward": 0.0, "total": 0.0}
    )
    paid: dict[str, tuple[float, int]] = field(default_factory=dict)
    item_evaluations: int = 0
    reused: int = 0
    halvings: int = 0
    phase: Phase = "check"
    generations: dict[int, AskRecord] = field(default_factory=dict)
    told_scores: dict[int, dict[str, float]] = field(default_factory=dict)
    _ask_of: dict[int, int] = field(default_factory=dict)  # trial -> its place in `asks`

    @classmethod
    def from_events(cls, events: Iterable[Event]) -> Self:
        """Replay `events` from the beginning of a journal."""
        record = cls()
        with no_collection():
            for event in events:
                record.apply(event)
        return record

    def apply(self, event: Event) -> None:
        """Take in the next event. Unknown ones are passed over: a newer version wrote them."""
        match event["event"]:
            case "study":
                self.study = event
                self.phase = "anchors"
            case "changed":
                self.changes.append(event)
                self.study = {**(self.study or {}), **event["now"]}
            case "asked":
                self._asked(event)
            case "outcomes":
                self._scored(event)
            case "scored":
                number = event["trial"]
                self.told_scores[number] = dict(event["scores"])
                self.trials[number] = replace(self.trials[number], state="scored")
            case "failed":
                self._failed(event)
            case "told":
                self._told(event)
            case "raced":
                self.races.append(event)
                self.phase = "race" if event["winner"] is None else "verdict"
            case "chosen":
                self.chosen.append(event)
            case "warning":
                self.warnings.append(event)
            case "search_ended":
                self.search_ended = event
            case "verdict":
                self.verdict = event
                self.phase = "done"
            case "exported":
                self.exported = event
                self.phase = "done"

    @property
    def tasks(self) -> Tasks:
        """The study's tasks; none before the ``study`` event."""
        tasks: Tasks = self.study["tasks"] if self.study else {}
        return tasks

    def tasks_of(self, pool: str) -> Tasks:
        """The tasks whose items are in a pool, all of them unless some belong to one pool alone."""
        items = (self.study or {}).get("pools", {}).get(pool)
        return self.tasks if items is None else {t: s for t, s in self.tasks.items() if t in items}

    @property
    def leader(self) -> Standing | None:
        """The trial with the highest gain over the reference anchor, the earliest of equals.

        Generations see different items, so that fitness alone is not comparable between them. A
        trial that keeps the constraints is ahead of all that break one; without a reference the
        fitness counts. It is partly luck: a progress display, not a selection. The race selects.
        """
        return max(self.standings(), key=lambda standing: standing.rank, default=None)

    def standings(self) -> Iterator[Standing]:
        """Every trial of the search that has a fitness, by generation."""
        return (standing for ask in self.generations.values() for standing in ask.standings())

    def gain(self, number: int) -> float | None:
        """A trial's gain over the reference anchor, or ``None``; see `Standing`."""
        standings = self.ask_of(number).standings()
        return next((standing.gain for standing in standings if standing.trial == number), None)

    def anchor_scores(self, score_kind: ScoreKind = "metric") -> dict[int, float]:
        """Fitness of the anchors that are scored, parents and base included, on their items."""
        items = self.asks[0].items if self.asks else None
        tasks, fitness_of = self.tasks_of("search"), {}
        for number, trial in self.trials.items():
            if trial.kind not in ("parent", "base", "anchor"):
                continue
            if number in self.told_scores:  # evaluated externally
                fitness_of[number] = weighted(self.told_scores[number], self.tasks)
            elif items and not self.outcomes.missing(trial.digest, score_kind, items):
                rows = self.outcomes.rows(trial.digest, score_kind, items)
                fitness_of[number] = fitness(rows, tasks, score_kind)
        return fitness_of

    def best_anchors(self, kind: str | None = None) -> list[int]:
        """The anchors that are scored by the metric, the best first, the earlier of equals.

        Args:
            kind: Only ``parent``, ``base`` or ``anchor``; ``None`` for all of them.
        """
        by_metric = self.anchor_scores()
        numbers = [n for n in by_metric if kind in (None, self.trials[n].kind)]
        return sorted(numbers, key=lambda number: -by_metric[number])

    @property
    def race_winner(self) -> int | None:
        """The trial that the verdict judged; before it, the one that the last race ended with."""
        if self.verdict is not None:
            return int(self.verdict["race_winner"]["trial"])
        return self.races[-1]["winner"] if self.races else None

    @property
    def winner(self) -> TrialRecord | None:
        """The trial that the verdict recommends, which is what is exported; None before it."""
        return None if self.verdict is None else self.trials[self.verdict["winner"]["trial"]]

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
            "verdict": self.verdict and {k: v for k, v in self.verdict.items() if k != "event"},
        }

    def scores(self, number: int) -> dict[str, float]:
        """A trial's mean per task over the items it was asked for, by the task's own metric.

        A task whose metric was not measured there (generation was not run) shows its smooth score.
        """
        if number in self.told_scores:
            return dict(self.told_scores[number])
        trial = self.trials[number]
        items = self.ask_of(number).items or {}
        found: dict[str, float] = {}
        for mode in ("smooth", "metric"):
            for task, ids in items.items():
                rows = self.outcomes.rows(trial.digest, mode, {task: ids})
                if rows:
                    measured = all(row.metric is not None for row in rows)
                    found |= scores(rows, self.tasks, "metric" if measured else "smooth")
        return found

    def written(self, number: int) -> Written:
        """Count the fates of answers that a trial's recipe generated, in all phases together."""
        return self.outcomes.written(self.trials[number].digest, self.generating)

    @property
    def generating(self) -> list[str]:
        """The tasks whose answers are generated."""
        told: Mapping[str, Any] = (self.study or {}).get("tasks", {})
        return [t for t, spec in told.items() if spec.get("output_type") == "generate_until"]

    def batches_of(self, number: int) -> tuple[str | None, ...] | None:
        """The batches that a trial was scored in, for each shard of what it was asked for.

        ``None`` in the place of a shard whose items were not all scored together, and instead of
        the tuple where nothing fixed was asked for or the trial has no outcomes.
        """
        items, digest = self.ask_of(number).items, self.trials[number].digest
        study = self.study or {}
        size, mode = study.get("shard_items"), study["config"]["evaluate"]["fitness"]
        if items is None or size is None or not self.outcomes.rows(digest, mode, items):
            return None
        return self.batches.of(digest, mode, shards(items, size))

    def ask_of(self, number: int) -> AskRecord:
        """The trials that were asked together with this one."""
        return self.asks[self._ask_of[number]]

    @property
    def next_number(self) -> int:
        """The number that the next trial gets."""
        return next(reversed(self.trials), -1) + 1  # numbers are given in rising order

    def _asked(self, event: Event) -> None:
        numbers = []
        for asked in event["trials"]:
            point = asked["point"]
            trial = TrialRecord(
                number=asked["trial"],
                kind=asked["kind"],
                name=asked["name"],
                generation=asked["generation"],
                index=asked["index"],
                point=None if point is None else tuple(point),
                recipe=asked["recipe"],
                digest=asked["digest"],
            )
            self.trials[trial.number] = trial
            self._ask_of[trial.number] = len(self.asks)
            numbers.append(trial.number)
        generation = self.trials[numbers[0]].generation if numbers else None
        ask = AskRecord(generation, tuple(numbers), event["items"])
        self.asks.append(ask)
        if generation is not None:
            self.generations[generation] = ask
            self.phase = "search"
        if event["items"] is not None:
            for number in numbers:  # an equal recipe may have been scored before
                self._mark_scored(number)

    def _scored(self, event: Event) -> None:
        add = self.outcomes.replace if event.get("rescored") else self.outcomes.add
        add(event["digest"], event["mode"], event["rows"])
        self.batches.note(event)
        self.halvings = max(self.halvings, event.get("halvings", 0))
        if event.get("reused"):
            self.reused += len(event["rows"])
        else:
            self.item_evaluations += len(event["rows"])
            seconds, items = self.paid.get(event["mode"], (0.0, 0))
            seconds += event["seconds"].get("total", 0.0)
            self.paid[event["mode"]] = (seconds, items + len(event["rows"]))
        for part in self.seconds:
            self.seconds[part] += event["seconds"].get(part, 0.0)
        if event["phase"] in {"anchors", "search", "race", "verdict"}:
            self.phase = event["phase"]
        self._mark_scored(event["trial"])

    def _mark_scored(self, number: int) -> None:
        """Mark a trial as scored once every item that it was asked for has an outcome."""
        trial = self.trials.get(number)
        if trial is None or trial.state not in {"asked", "failed"}:
            return
        ask = self.ask_of(number)
        # Without fixed items (a trial asked for the race alone) any outcome will do.
        if ask.items is None or any(
            self.outcomes.has(trial.digest, mode, ask.items) for mode in ("smooth", "metric")
        ):
            self.trials[number] = replace(trial, state="scored")

    def _failed(self, event: Event) -> None:
        trial = self.trials[event["trial"]]
        failure = Failure(event["kind"], event["message"], event["phase"])
        state: State = "told" if trial.state == "told" else "failed"
        self.trials[trial.number] = replace(trial, state=state, failure=failure)

    def _told(self, event: Event) -> None:
        told = dict(zip(event["trials"], event["fitness"], strict=True))
        for number, value in told.items():
            if value is not None:
                self.trials[number] = replace(self.trials[number], state="told", fitness=value)
        place = self._ask_of[event["trials"][0]]
        ask = replace(
            self.asks[place],
            fitness=tuple(told[number] for number in self.asks[place].trials),
            correlation=event["correlation"],
            reference=(event.get("reference") or {}).get("fitness"),
            objectives=_by_trial(event, "objectives", self.asks[place].trials),
            violations=_by_trial(event, "violations", self.asks[place].trials),
        )
        self.asks[place] = ask
        if ask.generation is not None:
            self.generations[ask.generation] = ask


def _by_trial(event: Event, key: str, trials: tuple[int, ...]) -> tuple[Any, ...] | None:
    """Return a ``told`` event's values under a key, in the order of an ask."""
    if event.get(key) is None:
        return None
    found = dict(zip(event["trials"], event[key], strict=True))
    return tuple(tuple(v) if isinstance(v, list) else v for v in map(found.get, trials))
