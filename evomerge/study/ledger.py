"""Keeps the ledger: what was asked and what came of it, paid for once.

Whoever runs a study asks the ledger for outcomes. Those that the journal holds are handed out; the
rest are evaluated, and written down before they are used. So a resumed study is the same program
run again, which finds its past already paid for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from evomerge.calibration.requests import Making
from evomerge.core.errors import UserError
from evomerge.core.garbage import no_collection
from evomerge.evaluate.outcomes import OutcomeRow, ScoreKind
from evomerge.study.config import StudyConfig
from evomerge.study.journal.codec import Document, parse, to_json
from evomerge.study.journal.events import (
    Event,
    FailedEvent,
    OutcomesEvent,
    WarningEvent,
)
from evomerge.study.journal.journal import Journal
from evomerge.study.journal.record import Record
from evomerge.study.journal.shards import gradient_shards, shard_items
from evomerge.study.journal.trials import TrialRecord
from evomerge.study.past import of_journal
from evomerge.study.reuse import lent_outcomes
from evomerge.study.sealing import without_secrets
from evomerge.study.wanted import LOST, Items, Wanted, apart, has_failed, parts_of, units
from evomerge.study.workers.failures import FATAL, TRANSIENT
from evomerge.study.workers.requests import (
    Answer,
    Describe,
    Description,
    Evaluate,
    EvaluateTogether,
    ExpectedParents,
    Export,
    ExportAdapter,
    Failure,
    Gradient,
    Gradients,
    Request,
    Scores,
    ScoresTogether,
    SuitTogether,
)
from evomerge.study.workers.scheduler import ATTEMPTS, Scheduler, Unit

AnswerType = TypeVar("AnswerType", bound=Answer)
Listener = Callable[[Event, Record], None]

WITH_PARENTS = (
    Evaluate | EvaluateTogether | SuitTogether | Export | ExportAdapter | Gradient | Making
)
ROUNDS = 3  # how often a unit that loses its workers again and again is tried anew


class Ledger:
    """A study's journal open for writing, its record, and the workers that fill it.

    `lenders` are other runs, by name, in which outcomes are looked up before they are paid for.
    """

    def __init__(self, journal: Path, listener: Listener | None = None):
        self.record = Record()
        self._listener = listener
        with no_collection():
            self._journal = Journal.open(journal, create=True, replay=self._replay)
        self.lenders: dict[str, Record] = {}
        self._scheduler: Scheduler | None = None
        self._parents: ExpectedParents | None = None

    @property
    def torn_bytes(self) -> int:
        """Bytes of a half-written event that opening cut off."""
        return self._journal.torn_bytes

    def employ(self, scheduler: Scheduler) -> None:
        """Let this scheduler's workers do what has to be done."""
        self._scheduler = scheduler
        scheduler.disagreed = self._disagreed
        scheduler.pool.notice = partial(self.warn, "workers wait")
        scheduler.halvings = max(scheduler.halvings, self.record.halvings)

    @property
    def n_workers(self) -> int:
        """How many workers can be used at present; at least 1."""
        return 1 if self._scheduler is None else self._scheduler.n_workers

    def borrow(self, run: str, record: Record) -> None:
        """Look outcomes up in another run before they are paid for."""
        self.lenders[run] = record

    def expect(self, parents: ExpectedParents) -> None:
        """Have every worker refuse parents that differ from these."""
        self._parents = parents

    def _replay(self, document: Document) -> None:
        event = parse(document)
        if event is not None:
            self.record.apply(event)

    def log(self, event: Event) -> None:
        """Write an event down, without secrets, then take it into account."""
        event = without_secrets(replace(event, time=time.time()))
        self._journal.append(to_json(event))
        self.record.apply(event)
        if self._listener is not None:
            self._listener(event, self.record)

    def warn(
        self, kind: str, message: str, trial: int | None = None, generation: int | None = None
    ) -> None:
        """Write down what the user should know while the study goes on."""
        self.log(WarningEvent(kind=kind, message=message, trial=trial, generation=generation))

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def request(self, request: Request, answer_type: type[AnswerType]) -> AnswerType:
        """Have one worker answer something that is not journalled.

        Raises:
            UserError: The worker says what the user has to mend, or workers fail.
        """
        return self.requests([request], answer_type)[0]

    def requests(
        self, several: Sequence[Request], answer_type: type[AnswerType]
    ) -> list[AnswerType]:
        """Have the workers share out such requests; the answers are in the requests' order.

        Raises:
            UserError: A worker says what the user has to mend, or workers fail.
        """
        answers: dict[int, AnswerType] = {}

        def take(unit: Unit, answer: Answer, _worker: int) -> None:
            if isinstance(answer, Failure):
                assert self._scheduler is not None
                location = self._scheduler.pool.output_location
                hint = f"; look at {location}; the same command resumes"
                raise UserError(answer.message + hint * (answer.kind in TRANSIENT))
            assert isinstance(answer, answer_type)
            answers[unit.tag] = answer

        listed = [
            Unit(str(i) * (len(several) > 1), self._with_parents(request), i)
            for i, request in enumerate(several)
        ]
        if listed:
            self._run(listed, take)
        return [answers[i] for i in range(len(several))]

    def outcomes(
        self, trials: Sequence[int], items: Items, mode: ScoreKind, phase: str
    ) -> dict[int, list[OutcomeRow] | None]:
        """Return the outcomes of trials on items, in the items' order; ``None`` for a failure.

        Args:
            trials: Their numbers, asked before.
            items: Document numbers of each task.
            mode: ``smooth`` or ``metric``.
            phase: What the journal files them under.
        """
        self.score([Wanted(trials, items, mode, phase)])
        return {number: self._rows(number, items, mode) for number in trials}

    def score(self, several: Sequence[Wanted]) -> None:
        """Pay for what the journal lacks of all these outcomes, all at once.

        A unit that loses its workers again and again is tried in rounds, between which a worker
        must show that it can do other work. If one can, the recipe is what ends workers, a failure
        of kind ``crash``; if none can, nothing is said of the recipe, and it is tried again when
        the study is resumed.

        Raises:
            UserError: Workers are lost whatever they do, or say what the user has to mend.
        """
        for wanted in several:
            self._copy(wanted)
        waiting = [
            unit
            for wanted in several
            for unit in units(self.record, wanted, self._shard_items, self._parents)
        ]
        for _ in range(ROUNDS):
            lost: list[tuple[Unit, Failure]] = []
            if waiting:
                self._run(waiting, partial(self._enter, lost))
            if not lost:
                return
            for unit, failed in lost:
                name, number = self.record.trials[unit.tag.trial].name, len(unit.tag.together)
                message = f"{name}: {ATTEMPTS} workers were lost on it: {failed.message}"
                if number:
                    message = f"{name} and {number - 1} others are built one by one: "
                    message += failed.message
                self.warn("worker lost", message, trial=unit.tag.trial)
            self.request(Describe(), Description)
            waiting = [
                one for unit, _ in lost for one in apart(self.record, unit, self._shard_items)
            ]
        for unit, failed in lost:
            times = ROUNDS * ATTEMPTS
            message = f"{times} workers were lost on it and not on other work: {failed.message}"
            self.fail(unit.tag.trial, unit.tag.phase, Failure("crash", message))

    def gradients(self, number: int, items: Items) -> list[Sequence[float] | None]:
        """Return the gradient of a trial over each part of the items; ``None`` for none."""
        digest = self.record.trials[number].digest
        return [self.record.gradients.of(digest, part) for part in gradient_shards(items)]

    def _copy(self, wanted: Wanted) -> None:
        """Write down here what other runs have already, so that this run stands alone."""
        if wanted.gradient is not None:
            return
        for run, lender in self.lenders.items():
            lent = lent_outcomes(self.record, lender, run, wanted, self._shard_items)
            for trial, event, alike in lent:
                self._log_outcomes(trial, event, f"{run} scored it", alike)

    @property
    def _shard_items(self) -> int:
        assert self.record.study is not None
        if self.record.study.shard_items is None:  # an earlier version began the study
            return shard_items(StudyConfig.from_dict(of_journal(self.record.study), Path("/")))
        return self.record.study.shard_items

    def _rows(self, number: int, items: Items, mode: str) -> list[OutcomeRow] | None:
        digest, outcomes = self.record.trials[number].digest, self.record.outcomes
        return None if outcomes.missing(digest, mode, items) else outcomes.rows(digest, mode, items)

    def _enter(
        self,
        lost: list[tuple[Unit, Failure]],
        unit: Unit,
        answer: Answer,
        worker: int,
        together: int | None = None,
    ) -> None:
        """Write down what became of a unit, unless nothing can be said of it yet."""
        if isinstance(answer, ScoresTogether):
            for single, part, together in parts_of(self.record, unit, answer):
                self._enter(lost, single, part, worker, together)
            return
        number, mode, phase = unit.tag.trial, unit.tag.mode, unit.tag.phase
        trial = self.record.trials[number]
        if isinstance(answer, Failure):
            if answer.kind in FATAL:
                raise UserError(answer.message)
            if answer.kind in LOST or unit.tag.together:
                lost.append((unit, answer))
            else:
                self.fail(number, phase, answer)
            return
        assert isinstance(answer, Scores)
        if answer.rescored and self._holds(trial, mode, answer.rows):
            return
        request = unit.request
        in_shards = request.shards if isinstance(request, Evaluate) else ()
        sizes = [sum(map(len, shard.values())) for shard in in_shards]
        loss = answer.loss if isinstance(answer, Gradients) else None
        gradient = None
        if isinstance(answer, Gradients):
            gradient = unit.tag.chain(answer, trial.point)
        event = OutcomesEvent(
            trial=number,
            phase=phase,
            digest=trial.digest,
            mode=mode,
            rows=answer.rows,
            seconds={part: round(spent, 6) for part, spent in answer.seconds.items()},
            worker=str(worker),
            batches=list(zip(answer.batches, sizes, strict=True)) if answer.batches else (),
            halvings=answer.halvings,
            errors=answer.errors or None,
            rescored=answer.rescored,
            loss=loss,
            gradient=gradient,
            passes=answer.passes if isinstance(answer, Gradients) and answer.passes > 1 else None,
            together=together,
        )
        halved = f"batches were halved {self.record.halvings} times because memory ran out"
        why = halved if self.record.halvings else f"worker {worker} batches them so"
        self._log_outcomes(trial, event, why)

    def _log_outcomes(
        self, trial: TrialRecord, event: OutcomesEvent, why: str, alike: bool = True
    ) -> None:
        """Write outcomes down; warn, once in a study, if others come from other batches."""
        before = self.record.batches.conflicts
        self.log(event)
        warned = any(warning.kind == "batches" for warning in self.record.warnings)
        if not warned and (not alike or self.record.batches.conflicts > before):
            self.warn(
                "batches",
                f"{trial.name}: scored in different batches than other trials on the same items "
                f"({why}): scores may differ by rounding",
                trial=trial.number,
            )

    def fail(self, number: int, phase: str, failed: Failure) -> None:
        """Write down why a trial has no score in a phase; once."""
        if not has_failed(self.record.trials[number], phase):
            self.log(
                FailedEvent(trial=number, phase=phase, kind=failed.kind, message=failed.message)
            )

    def _disagreed(self, unit: Unit, first: Answer, second: Answer) -> None:
        """Warn of a unit that two workers answered differently; the first answer counts."""
        number = unit.tag.trial
        name = self.record.trials[number].name
        rows = [answer.rows if isinstance(answer, Scores) else () for answer in (first, second)]
        pairs = zip(*rows, strict=False)
        differ = [a[:2] for a, b in pairs if a != b]
        what = f"{len(differ)} items differ" if differ else "one of them failed"
        where = f", the first is item {differ[0][1]} of {differ[0][0]}" if differ else ""
        self.warn(
            "disagreement",
            f"{name}: two workers scored the same items and {what}{where}; the first answer counts",
            trial=number,
        )

    def _with_parents(self, request: Request) -> Request:
        if isinstance(request, WITH_PARENTS):
            return replace(request, parents=self._parents)
        return request

    def _holds(self, trial: TrialRecord, mode: str, rows: Sequence[Sequence[Any]]) -> bool:
        """Return whether the journal has just these outcomes."""
        outcomes = self.record.outcomes
        known = (outcomes.get((trial.digest, mode, row[0], row[1])) for row in rows)
        return all(one == OutcomeRow(*row) for one, row in zip(known, rows, strict=True))

    def _run(self, units: Sequence[Unit], done: Callable[[Unit, Answer, int], None]) -> None:
        assert self._scheduler is not None, "employ() comes before anything is evaluated"
        self._scheduler.run(units, done)
