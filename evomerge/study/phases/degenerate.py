"""Finds trials that answer nothing: nearly all that they generate is blank or repeats itself.

Such a trial has failed, for whatever it scores elsewhere it has lost the ability to write. Where
the reference anchor does not do better on the same items, the task or its prompts are to blame, and
nobody fails; nor do anchors, which are what a search is compared with.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from evomerge.evaluate.outcomes import OutcomeRow

LEAST_ANSWERS = 20  # fewer say nothing of a trial
NEARLY_ALL = 0.95
REFERENCE_AT_MOST = 0.5  # of the reference anchor's answers, for a trial to fail by this


def degenerate(
    rows: Sequence[OutcomeRow], reference: Sequence[OutcomeRow] | None, generating: Collection[str]
) -> str | None:
    """Say why a trial counts as degenerate; ``None`` if it does not.

    Args:
        rows: The trial's outcomes.
        reference: The reference anchor's on the same items; ``None`` if it has none.
        generating: The tasks whose answers are generated. Where a likelihood was computed instead,
            a row has no metric, and does not count.
    """
    answers = _answers(rows, generating)
    bad = sum(row.degenerate for row in answers)
    if len(answers) < LEAST_ANSWERS or bad < NEARLY_ALL * len(answers):
        return None
    theirs = _answers(reference or (), generating)
    bad_there = sum(row.degenerate for row in theirs)
    if not theirs or bad_there > REFERENCE_AT_MOST * len(theirs):
        return None
    return (
        f"{bad} of {len(answers)} generated answers are blank, or repeat themselves up to the "
        f"limit; of the reference anchor's, {bad_there} of {len(theirs)}"
    )


def _answers(rows: Sequence[OutcomeRow], generating: Collection[str]) -> list[OutcomeRow]:
    return [row for row in rows if row.task in generating and row.metric is not None]
