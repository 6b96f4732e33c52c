"""Adds up the state of a study from its journal's events.

Needs no torch, so a run can be looked at on any laptop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from evomerge.core.schema import renamed
from evomerge.study.journal.batches import BatchTable
from evomerge.study.journal.events import (
    AskedEvent,
    ChangedEvent,
    ChosenEvent,
    Event,
    ExportedEvent,
    FailedEvent,
    MeasuredEvent,
    MovedEvent,
    OpenedEvent,
    OutcomesEvent,
    RacedEvent,
    ScoredEvent,
    SearchEndedEvent,
    StudyEvent,
    ToldEvent,
    VerdictEvent,
    WarningEvent,
)
from evomerge.study.journal.outcomes import OutcomeTable
from evomerge.study.journal.shards import PRICES, GradientTable
from evomerge.study.journal.trials import AskRecord, State, TrialRecord

Phase = Literal["check", "anchors", "search", "race", "verdict", "done"]


@dataclass
class StudyState:
    """The state of a study so far; `apply` adds one event.

    Attributes:
        study: What the study began with, as far as ``--allow-changed`` did not replace it; or None.
        trials: By number.
        asks: In the order of asking, anchors included.
        outcomes: By (digest, mode, task, doc id); the first delivery counts, later ones do not.
        batches: The batches that outcomes come from.
        gradients: Those that the optimizer was not told yet.
        races: The rungs of every race.
        chosen: Why another trial than a race's leader was taken.
        warnings: All of them.
        search_ended: The last end of the search, or None.
        verdict: The last verdict, or None.
        looks: By the digests of the race's winners, in which place each was judged.
        exported: The last export, or None.
        seconds: Totals over all workers, ``build``, ``forward`` and ``total``.
        run_seconds: From the opening to the last event, over all sessions.
        paid: Worker seconds and items by score kind (``smooth``, ``metric``, and ``gradient``),
            reused ones aside.
        judged_in: Seconds in the model and items of the verdict's evaluations, by recipe digest.
        item_evaluations: Outcomes journalled, repeated ones included: what was paid for. One with a
            gradient counts as three, or four (`shards.PRICES`); models' own rows are in it.
        of_own_rows: The part of it that models' own rows cost before the search.
        measured: What models' own rows said of them.
        reused: Outcomes taken from other runs.
        halvings: How often batches were halved, because a worker ran out of memory.
        phase: Where the study is. ``done`` begins with the verdict, before the export.
        generations: The search's asks by generation.
        external_scores: Scores by task of the trials that were evaluated externally.
    """

    study: StudyEvent | None = None
    trials: dict[int, TrialRecord] = field(default_factory=dict)
    asks: list[AskRecord] = field(default_factory=list)
    outcomes: OutcomeTable = field(default_factory=OutcomeTable)
    batches: BatchTable = field(default_factory=BatchTable)
    gradients: GradientTable = field(default_factory=GradientTable)
    races: list[RacedEvent] = field(default_factory=list)
    chosen: list[ChosenEvent] = field(default_factory=list)
    warnings: list[WarningEvent] = field(default_factory=list)
    search_ended: SearchEndedEvent | None = None
    verdict: VerdictEvent | None = None
    looks: dict[str, int] = field(default_factory=dict)
    exported: ExportedEvent | None = None
    seconds: dict[str, float] = field(
        default_factory=lambda: {"build": 0.0, "forward": 0.0, "total": 0.0}
    )
    run_seconds: float = 0.0
    paid: dict[str, tuple[float, int]] = field(default_factory=dict)
    judged_in: dict[str, tuple[float, int]] = field(default_factory=dict)
    item_evaluations: int = 0
    of_own_rows: int = 0
    measured: list[MeasuredEvent] = field(default_factory=list)
    reused: int = 0
    halvings: int = 0
    phase: Phase = "check"
    generations: dict[int, AskRecord] = field(default_factory=dict)
    external_scores: dict[int, dict[str, float]] = field(default_factory=dict)
    _last_time: float | None = None
    _ask_of: dict[int, int] = field(default_factory=dict)  # trial -> index in `asks`

    def apply(self, event: Event) -> None:
        """Take in the next event."""
        self._pass_time(event)
        match event:
            case StudyEvent():
                self.study = event
                self.phase = "anchors"
            case ChangedEvent():
                assert self.study is not None
                now = {key: value for key, value in vars(event.now).items() if value is not None}
                self.study = replace(self.study, **now)
            case MovedEvent():
                self._move(event)
            case AskedEvent():
                self._ask(event)
            case OutcomesEvent():
                self._score(event)
            case MeasuredEvent():
                self.measured.append(event)
                self.of_own_rows += event.item_evaluations
                self.item_evaluations += event.item_evaluations
                self.seconds["total"] += event.seconds.get("total", 0.0)
            case ScoredEvent():
                self.external_scores[event.trial] = dict(event.scores)
                self.trials[event.trial] = replace(self.trials[event.trial], state="scored")
            case FailedEvent():
                self._fail(event)
            case ToldEvent():
                self._tell(event)
            case RacedEvent():
                self.races.append(event)
                self.phase = "race" if event.winner is None else "verdict"
            case ChosenEvent():
                self.chosen.append(event)
            case WarningEvent():
                self.warnings.append(event)
            case SearchEndedEvent():
                self.search_ended = event
            case VerdictEvent():
                self.verdict = event
                self._look(event)
                self.phase = "done"
            case ExportedEvent():
                self.exported = event
                self.phase = "done"

    def _pass_time(self, event: Event) -> None:
        if event.time is None:
            return
        if self._last_time is not None and not isinstance(event, OpenedEvent):
            self.run_seconds += max(0.0, event.time - self._last_time)  # a clock may go back
        self._last_time = event.time

    def ask_of(self, number: int) -> AskRecord:
        """Return the trials that were asked together with this one."""
        return self.asks[self._ask_of[number]]

    @property
    def next_number(self) -> int:
        """The number that the next trial gets."""
        return next(reversed(self.trials), -1) + 1  # numbers are given in rising order

    def _move(self, event: MovedEvent) -> None:
        """Give models, files and recipes the names that they have now."""
        assert self.study is not None
        paths, digests = event.paths, event.digests
        self.study = replace(
            self.study,
            config=renamed(self.study.config, paths),
            space=renamed(self.study.space, paths),
            fingerprints={paths.get(m, m): f for m, f in self.study.fingerprints.items()},
        )
        for number, trial in self.trials.items():
            recipe = renamed(trial.recipe, paths)
            digest = digests.get(trial.digest, trial.digest)
            self.trials[number] = replace(trial, recipe=recipe, digest=digest)
        self.outcomes.rename(digests)
        self.batches.rename(digests)
        self.gradients.rename(digests)
        self.looks = {digests.get(digest, digest): look for digest, look in self.looks.items()}

    def _look(self, event: VerdictEvent) -> None:
        """Count the winner that was judged; an earlier version did not say in which place."""
        place = max(event.look, max(self.looks.values(), default=0) + 1)
        if event.race_winner.kind == "trial":
            self.looks.setdefault(event.race_winner.digest, place)

    def _ask(self, event: AskedEvent) -> None:
        numbers = []
        for asked in event.trials:
            trial = TrialRecord(
                number=asked.trial,
                kind=asked.kind,
                name=asked.name,
                generation=asked.generation,
                index=asked.index,
                point=None if asked.point is None else tuple(asked.point),
                recipe=asked.recipe,
                digest=asked.digest,
            )
            self.trials[trial.number] = trial
            self._ask_of[trial.number] = len(self.asks)
            numbers.append(trial.number)
        generation = self.trials[numbers[0]].generation if numbers else None
        ask = AskRecord(generation, tuple(numbers), event.items)
        self.asks.append(ask)
        if generation is not None:
            self.generations[generation] = ask
            self.phase = "search"
        if event.items is not None:
            for number in numbers:  # an equal recipe may have been scored before
                self._mark_scored(number)

    def _score(self, event: OutcomesEvent) -> None:
        add = self.outcomes.replace if event.rescored else self.outcomes.add
        add(event.digest, event.mode, event.rows)
        self.batches.note(event)
        self.gradients.note(event)
        self.halvings = max(self.halvings, event.halvings)
        if event.reused:
            self.reused += len(event.rows)
        else:
            plain = event.gradient is None
            kind, price = (event.mode, 1) if plain else ("gradient", PRICES[event.mode])
            price *= event.passes or 1
            self.item_evaluations += price * len(event.rows)
            seconds, items = self.paid.get(kind, (0.0, 0))
            seconds += event.seconds.get("total", 0.0)
            self.paid[kind] = (seconds, items + price * len(event.rows))
            if event.phase == "verdict":
                spent, number = self.judged_in.get(event.digest, (0.0, 0))
                spent += event.seconds.get("forward", 0.0)
                self.judged_in[event.digest] = spent, number + len(event.rows)
        for part in self.seconds:
            self.seconds[part] += event.seconds.get(part, 0.0)
        if event.phase in {"anchors", "search", "race", "verdict"}:
            self.phase = cast(Phase, event.phase)
        self._mark_scored(event.trial)

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

    def _fail(self, event: FailedEvent) -> None:
        trial = self.trials[event.trial]
        state: State = "told" if trial.state == "told" else "failed"
        self.trials[trial.number] = replace(trial, state=state, failure=event)

    def _tell(self, event: ToldEvent) -> None:
        fitness_of = dict(zip(event.trials, event.fitness, strict=True))
        for number, value in fitness_of.items():
            if value is not None:
                self.trials[number] = replace(self.trials[number], state="told", fitness=value)
        index = self._ask_of[event.trials[0]]
        trials = self.asks[index].trials
        ask = replace(
            self.asks[index],
            fitness=tuple(fitness_of[number] for number in trials),
            correlation=event.correlation,
            loss_correlation=event.loss_correlation,
            reference=None if event.reference is None else event.reference.fitness,
            objectives=_by_trial(event.trials, event.objectives, trials),
            violations=_by_trial(event.trials, event.violations, trials),
            gradients=_by_trial(event.trials, event.gradients, trials),
        )
        self.gradients.drop()
        self.asks[index] = ask
        if ask.generation is not None:
            self.generations[ask.generation] = ask


def _by_trial(
    trials: Sequence[int], values: Sequence[Any] | None, order: Sequence[int]
) -> tuple[Any, ...] | None:
    """Put the values of trials into another order of the same trials."""
    if values is None:
        return None
    by_trial = dict(zip(trials, values, strict=True))
    return tuple(tuple(v) if isinstance(v, list) else v for v in map(by_trial.get, order))
