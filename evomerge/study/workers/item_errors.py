"""Items that a task's own code cannot grade: a few count as wrong answers, many fail the trial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evomerge.core.redact import redact
from evomerge.evaluate.outcomes import OutcomeRow
from evomerge.evaluate.tasks.harness import Harness

MOST = 0.1  # of the items of one shard that may fail


class TooManyItemErrors(Exception):
    """So many items cannot be graded that a score would mean little."""


def settled(
    outcomes: Sequence[OutcomeRow], harness: Harness, mode: str
) -> tuple[list[OutcomeRow], list[list[Any]]]:
    """Outcomes without gaps, and [task, document, what went wrong] of those that had one.

    An item whose task raised, or gave no number where its metric was asked for, counts as wrong:
    0 by the metric, and 0 by the smooth score where that follows from the metric.

    Raises:
        TooManyItemErrors: More than a tenth of the items, or an item of a metric that is better
            when lower, and so has no worst value.
    """
    whole, errors = [], []
    for outcome in outcomes:
        told = harness.errors.get((outcome.task, outcome.doc_id))
        if told is None and mode == "metric" and outcome.metric is None:
            told = "the metric gave no finite number"
        if told is not None:
            errors.append([outcome.task, outcome.doc_id, redact(" ".join(told.split()))[:300]])
            worst = 0.0 if harness.metrics[outcome.task].higher_is_better else None
            if mode == "metric":
                outcome = outcome._replace(metric=worst)
            elif outcome.smooth is None:
                outcome = outcome._replace(smooth=0.0)
        whole.append(outcome)
    lacking = mode == "metric" and any(outcome.metric is None for outcome in whole)
    if errors and (lacking or len(errors) > MOST * len(outcomes)):
        task, document, first = errors[0]
        raise TooManyItemErrors(
            f"{len(errors)} of {len(outcomes)} items could not be graded; the first, document "
            f"{document} of task '{task}': {first}"
        )
    return whole, errors
