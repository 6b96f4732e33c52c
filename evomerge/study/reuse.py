"""Finds outcomes of another study that may be used again: equal protocol, equal parents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evomerge.core.errors import UserError
from evomerge.evaluate.outcomes import OutcomeRow
from evomerge.study.journal.events import OutcomesEvent, StudyEvent
from evomerge.study.journal.record import Record
from evomerge.study.journal.shards import shards
from evomerge.study.journal.trials import TrialRecord
from evomerge.study.wanted import Wanted


def lendable(directory: Path, ours: StudyEvent) -> Record:
    """Return the record of another run, if this study may use its outcomes.

    An outcome belongs to a recipe's digest, the parents' fingerprints, the evaluation protocol and
    an item. Recipes and items are looked up one by one; the rest must be the same as a whole.

    Args:
        directory: The other run folder.
        ours: What this study began with.

    Raises:
        UserError: It is no run folder, or protocol or parents differ.
    """
    record = Record.read(directory)
    theirs = record.study
    if theirs is None or theirs.elsewhere:
        raise UserError(f"--reuse {directory}: this study has scored nothing with its own workers")
    if theirs.fingerprints != ours.fingerprints:
        models = {**theirs.fingerprints, **ours.fingerprints}
        named = next(m for m in models if theirs.fingerprints.get(m) != ours.fingerprints.get(m))
        raise UserError(
            f"--reuse {directory}: expected the same parents, but {named} differs or is in one of "
            "the studies only; leave this run out"
        )
    if theirs.protocol != ours.protocol:
        raise UserError(
            f"--reuse {directory}: expected the same evaluation (tasks, documents, prompts, "
            "metrics), but it differs; leave this run out"
        )
    return record


def lent_outcomes(
    record: Record, lender: Record, run: str, wanted: Wanted, shard_items: int
) -> Iterator[tuple[TrialRecord, OutcomesEvent, bool]]:
    """List what another run has of what is wanted and missing here.

    Returns:
        Each trial with the event to write down, and whether its batches are known to be ours.
    """
    parts = shards(wanted.items, shard_items)
    size = None if lender.study is None else lender.study.shard_items
    alike = size == shard_items and lender.batches.last is not None
    for trial in (record.trials[number] for number in wanted.trials):
        rows: list[OutcomeRow] = []
        batches: list[tuple[str, int]] = []
        known = lender.batches.of(trial.digest, wanted.mode, parts)
        for shard, scored_in in zip(parts, known, strict=True):
            missing = record.outcomes.missing(trial.digest, wanted.mode, shard)
            lent = lender.outcomes.rows(trial.digest, wanted.mode, missing)
            if lent:
                rows += lent
                whole = missing == shard and scored_in is not None
                batches.append((scored_in if whole and scored_in else "", len(lent)))
        if rows:
            event = OutcomesEvent(
                trial=trial.number,
                phase=wanted.phase,
                digest=trial.digest,
                mode=wanted.mode,
                rows=[row.as_written() for row in rows],
                seconds={},
                worker="",
                batches=batches,
                reused=run,
            )
            yield trial, event, alike
