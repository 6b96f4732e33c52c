"""Reads a run folder for the report: the record, and what the record leaves out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.checkpoint.architecture import layer_count
from evomerge.evaluate.outcomes import OutcomeRow
from evomerge.study.journal.codec import parse_all
from evomerge.study.journal.event_marks import Items
from evomerge.study.journal.events import (
    Event,
    FailedEvent,
    OpenedEvent,
    OutcomesEvent,
    RacedEvent,
    ReferenceFitness,
    ToldEvent,
)
from evomerge.study.journal.journal import JOURNAL, iterate
from evomerge.study.journal.record import Record
from evomerge.study.journal.trials import TrialRecord
from evomerge.study.statistics.outcome import Tasks

_POOLS = {"race": "race", "verdict": "holdout"}  # which pool a phase draws its items from
PHASES = ("anchors", "search", "race", "verdict")


@dataclass(frozen=True)
class WorkerJob:
    """One delivery of a worker; times in seconds since 1970, `build` and `forward` in seconds."""

    worker: str
    phase: str
    start: float
    end: float
    build: float
    forward: float


@dataclass
class Run:
    """Everything that a run's journal records.

    Attributes:
        folder: The run folder, as it was given.
        record: The state of the study.
        jobs: Deliveries in the order of the journal.
        failures: Every failure of a trial, in the order of the journal.
        sessions: First and last moment of every time that the journal was open.
        references: The reference anchor's trial number for every generation.
        race_items: For each of the record's races, how many items it was decided on.
        paid: For every generation, the item evaluations and the workers' seconds of the whole study
            when its fitness was known.
    """

    folder: Path
    record: Record = field(default_factory=Record)
    jobs: list[WorkerJob] = field(default_factory=list)
    failures: list[FailedEvent] = field(default_factory=list)
    sessions: list[tuple[float, float]] = field(default_factory=list)
    references: dict[int, int] = field(default_factory=dict)
    race_items: list[int] = field(default_factory=list)
    paid: dict[int, tuple[int, float]] = field(default_factory=dict)
    _measured: dict[str, set[str]] = field(default_factory=dict)
    _raced: dict[int, set[tuple[str, int]]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path | str) -> Run:
        """Read a run folder, also one that a study is writing to.

        Raises:
            UserError: There is no journal, or it is damaged.
        """
        run = cls(Path(folder))
        for event in parse_all(iterate(run.folder / JOURNAL)):
            run.apply(event)
        return run

    def apply(self, event: Event) -> None:
        """Take in the journal's next event."""
        self.record.apply(event)
        moment = event.time
        if isinstance(event, OpenedEvent) or (moment is not None and not self.sessions):
            self.sessions.append((moment or 0.0, moment or 0.0))
        elif moment is not None:
            self.sessions[-1] = (self.sessions[-1][0], max(moment, self.sessions[-1][1]))
        match event:
            case OutcomesEvent():
                self._delivered(event)
            case FailedEvent():
                self.failures.append(event)
            case ToldEvent():
                spent = (self.record.item_evaluations, self.record.seconds["total"])
                self.paid[event.generation] = spent
                if isinstance(event.reference, ReferenceFitness):
                    self.references[event.generation] = event.reference.trial
            case RacedEvent():
                compared = [self._raced.get(number, set()) for number in event.scores]
                # a candidate that was in an earlier race has more than this rung's items
                seen = min(map(len, compared), default=0)
                self.race_items.append(event.items or seen)

    @property
    def tasks(self) -> Tasks:
        """The study's tasks."""
        return self.record.tasks

    @property
    def held_out_tasks(self) -> Tasks:
        """Those of the study's tasks that have held-out items."""
        return self.record.tasks_of("holdout")

    @property
    def config(self) -> Mapping[str, Any]:
        """The study's configuration; empty before the ``study`` event."""
        return self.record.config

    @property
    def pools(self) -> Mapping[str, Items]:
        """Items by pool and task."""
        return self.record.pools

    @property
    def ours(self) -> int | None:
        """The trial that the verdict measured against parents and anchors: the race's winner."""
        return self.record.race_winner

    @property
    def recommended(self) -> int | None:
        """The trial that the verdict recommends, which is what was exported."""
        winner = self.record.winner
        return None if winner is None else winner.number

    @property
    def wall_seconds(self) -> float:
        """Time during which the journal was open, over all sessions."""
        return sum(end - start for start, end in self.sessions)

    @property
    def depth(self) -> int | None:
        """Number of layers, as the journal or the exported model says; ``None`` if neither does."""
        if self.record.study is not None and self.record.study.layers is not None:
            return self.record.study.layers
        try:
            config = json.loads((self.folder / "best/model/config.json").read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return layer_count(config) if isinstance(config, dict) else None

    def rows(self, trial: TrialRecord, pool: str) -> list[OutcomeRow] | None:
        """Return a trial's metric outcomes on a pool's items; ``None`` if some are missing."""
        items = self.pools.get(pool) or {}
        if not items or trial.digest not in self._measured.get(pool, ()):  # nearly all trials
            return None
        if self.record.outcomes.missing(trial.digest, "metric", items):
            return None
        return self.record.outcomes.rows(trial.digest, "metric", items)

    def _delivered(self, event: OutcomesEvent) -> None:
        spent, end = event.seconds, event.time or 0.0
        start = end - spent.get("total", 0.0)
        times = (spent.get("build", 0.0), spent.get("forward", 0.0))
        if not event.reused:
            self.jobs.append(WorkerJob(event.worker, event.phase, start, end, *times))
        if event.phase in _POOLS:
            self._measured.setdefault(_POOLS[event.phase], set()).add(event.digest)
        if event.phase == "race":
            seen = self._raced.setdefault(event.trial, set())
            seen |= {(row[0], row[1]) for row in event.rows}
