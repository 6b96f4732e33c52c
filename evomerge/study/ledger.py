"""The ledger: what was asked and what came of it, paid for once. Journal, record, workers in one.

Whoever runs a study asks the ledger for outcomes. Those that the journal holds are handed out; the
rest are evaluated, and written down before they are used. So a resumed study is the same program
run again, which finds its past already paid for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.errors import UserError
from evomerge.redact import redacted
from evomerge.study.failures import FATAL
from evomerge.study.journal import Journal
from evomerge.study.objective import Row
from evomerge.study.record import Record, TrialRecord
from evomerge.study.scheduler import Scheduler, Unit
from evomerge.study.workers import Message

Items = Mapping[str, Sequence[int]]
Listener = Callable[[Mapping[str, Any], Record], None]

# Items that a worker scores per request. A constant, so that batches, and with them the last bits
# of a score, do not depend on how many workers there are.
BATCHES_PER_SHARD = 8
_PLAIN = {"asked", "outcomes", "told", "raced"}  # events that hold names and numbers alone


class Ledger:
    """A study's journal open for writing, its record, and the workers that fill it."""

    def __init__(self, journal: Path, listener: Listener | None = None):
        self.record = Record()
        self._listener = listener
        self._journal = Journal.open(journal, create=True, replay=self.record.apply)
        self._scheduler: Scheduler | None = None
        self._parents: dict[str, Any] | None = None

    @property
    def torn_bytes(self) -> int:
        """Bytes of a half-written event that opening cut off."""
        return self._journal.torn_bytes

    def employ(self, scheduler: Scheduler) -> None:
        """Let this scheduler's workers do what has to be done."""
        self._scheduler = scheduler
        scheduler.halvings = max(scheduler.halvings, self.record.halvings)

    def expect(self, parents: Mapping[str, Any]) -> None:
        """Have every worker find the parents as they are described: ``stamp``, ``fingerprints``."""
        self._parents = dict(parents)

    def log(self, event: dict[str, Any]) -> None:
        """Write an event down, without secrets, then take it into account."""
        if event["event"] not in _PLAIN:
            event = redacted(event)
        event = {**event, "time": time.time()}
        self._journal.append(event)
        self.record.apply(event)
        if self._listener is not None:
            self._listener(event, self.record)

    def warn(self, kind: str, message: str, **about: Any) -> None:
        """Write down what the user should know while the study goes on."""
        self.log({"event": "warning", "kind": kind, "message": message, **about})

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def request(self, **request: Any) -> Message:
        """Have one worker answer something that is not journalled.

        Raises:
            UserError: The worker says what the user has to mend, or workers fail.
        """
        answers: list[Message] = []
        self._run(
            [Unit("", self._with_parents(request))],
            lambda _unit, answer, _worker: answers.append(answer),
        )
        failed = answers[0].get("failed")
        if failed:
            hint = "; workers.log in the run folder says more"
            raise UserError(failed["message"] + hint * (failed["kind"] == "infrastructure"))
        return answers[0]

    def outcomes(
        self,
        trials: Sequence[int],
        items: Items,
        mode: str,
        phase: str,
        rows_per_batch: int,
    ) -> dict[int, list[Row] | None]:
        """The outcomes of trials on items, in the order of the items; ``None`` for a failed trial.

        Args:
            trials: Their numbers, asked before.
            items: Document numbers of each task.
            mode: ``smooth`` or ``metric``.
            phase: What the journal files them under.
            rows_per_batch: Of the evaluation; decides how items are cut into shards.
        """
        record, units = self.record, []
        some = [record.trials[number] for number in trials]
        # Equal recipes are scored once and fail together, also when a study is resumed.
        settled = {trial.digest for trial in some if _has_failed(trial, phase)}
        shards = _shards(items, rows_per_batch * BATCHES_PER_SHARD)
        for trial in some:
            if trial.digest in settled:
                continue
            settled.add(trial.digest)
            for shard in shards:
                missing = record.outcomes.missing(trial.digest, mode, shard)
                if missing:
                    request = {"do": "evaluate", "recipe": trial.recipe, "items": missing}
                    request = self._with_parents({**request, "mode": mode})
                    units.append(Unit(trial.digest, request, trial.number))
        if units:
            self._run(units, lambda u, a, w: self._enter(u, a, w, mode, phase))
        return {number: self._rows(number, items, mode) for number in trials}

    def _rows(self, number: int, items: Items, mode: str) -> list[Row] | None:
        trial = self.record.trials[number]
        if self.record.outcomes.missing(trial.digest, mode, items):
            return None
        return self.record.outcomes.rows(trial.digest, mode, items)

    def _enter(self, unit: Unit, answer: Message, worker: int, mode: str, phase: str) -> None:
        trial = self.record.trials[unit.tag]
        about: dict[str, Any] = {"trial": trial.number, "phase": phase}
        failed = answer.get("failed")
        if failed is None:
            if answer.get("rescored"):
                if self._holds(trial, mode, answer["rows"]):
                    return
                about["rescored"] = True
            about |= {key: answer[key] for key in ("halvings", "errors") if answer.get(key)}
            self.log(
                {
                    "event": "outcomes",
                    **about,
                    "digest": trial.digest,
                    "mode": mode,
                    "rows": answer["rows"],
                    "seconds": {k: round(v, 6) for k, v in answer["seconds"].items()},
                    "worker": str(worker),
                }
            )
        elif failed["kind"] in FATAL:
            raise UserError(failed["message"])
        elif not _has_failed(trial, phase):
            self.log({"event": "failed", **about, **failed})

    def _with_parents(self, request: Message) -> Message:
        if self._parents is None or request["do"] not in ("evaluate", "export"):
            return request
        return {**request, "parents": self._parents}

    def _holds(self, trial: TrialRecord, mode: str, rows: Sequence[Sequence[Any]]) -> bool:
        """Whether the journal has just these outcomes."""
        outcomes = self.record.outcomes
        held = (outcomes.get((trial.digest, mode, row[0], row[1])) for row in rows)
        return all(one == tuple(row) for one, row in zip(held, rows, strict=True))

    def _run(self, units: Sequence[Unit], done: Callable[[Unit, Message, int], None]) -> None:
        assert self._scheduler is not None, "employ() comes before anything is evaluated"
        self._scheduler.run(units, done)


def _has_failed(trial: TrialRecord, phase: str) -> bool:
    return trial.failure is not None and trial.failure.phase == phase


def _shards(items: Items, size: int) -> list[dict[str, list[int]]]:
    """Cut items, in their order, into parts of at most `size`."""
    flat = [(task, i) for task, ids in items.items() for i in ids]
    shards = []
    for start in range(0, len(flat), size):
        shard: dict[str, list[int]] = {}
        for task, i in flat[start : start + size]:
            shard.setdefault(task, []).append(i)
        shards.append(shard)
    return shards
