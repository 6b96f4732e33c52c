"""Finds outcomes of another study that may be used again: equal protocol, equal parents."""

from __future__ import annotations

from pathlib import Path

from evomerge.core.errors import UserError
from evomerge.study.journal.events import StudyEvent
from evomerge.study.journal.record import Record


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
