"""Failures of an evaluation are sorted by kind, and the kind decides what happens next.

| kind | meaning | consequence |
|---|---|---|
| ``study`` | no score can be trusted: a parent changed, versions differ | the study stops |
| ``infrastructure`` | a worker or its node was lost | tried again on another worker |
| ``timeout`` | far slower than all others | its worker is killed, tried again |
| ``oom`` | out of memory, on a device or the host | tried again in batches of half the size |
| ``device`` | the device or its driver is broken | tried on another worker; the second time the
device is no longer used, and its scores of this batch are computed again on others |
| ``non-finite`` | NaN or infinity in weights or logits | the trial failed |
| ``degenerate`` | nearly all of its output is blank or repeats itself | the trial failed |
| ``crash`` | this recipe alone ends every worker that tries it | the trial failed |
| ``task`` | the task's own code fails on too many items | the trial failed |
| ``user`` | the method refuses this recipe | the trial failed |
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

from evomerge.core.errors import UserError
from evomerge.core.memory import is_out_of_memory
from evomerge.core.redact import redact
from evomerge.evaluate.outcomes import NonFiniteError, OutcomeRow
from evomerge.study.workers.requests import Failure

if TYPE_CHECKING:  # a driver needs no lm_eval
    from evomerge.evaluate.tasks.harness import Harness

TRANSIENT = frozenset({"infrastructure", "timeout", "oom", "device"})
FATAL = frozenset({"study"})
MOST_ITEM_ERRORS = 0.1  # of the items of one shard; more fail the trial

# Messages of PyTorch, CUDA's runtime and NVIDIA's driver after which a process has to be replaced.
_DEVICE = re.compile(
    r"CUDA error|cuda runtime error|device-side assert|CUBLAS_STATUS|CUDNN_STATUS|NCCL error|"
    r"unspecified launch failure|illegal memory access|fallen off the bus|uncorrectable ECC|"
    r"\bXid\b|HIP error|MPS backend|no CUDA-capable device",
    re.IGNORECASE,
)


class StudyStopError(Exception):
    """No later score could be trusted, so the study has to stop."""


def kind_of(error: BaseException) -> str:
    """Sort an unexpected error by its type and message."""
    if is_out_of_memory(error):
        return "oom"
    return "device" if _DEVICE.search(f"{type(error).__name__}: {error}") else "task"


def failure(kind: str, message: str) -> Failure:
    """Make an answer of a failure: one line, without secrets, of bounded length."""
    return Failure(kind, redact(" ".join(message.split()))[:2000])


def failure_of(error: Exception) -> Failure:
    """Make an answer of whatever a request raised."""
    match error:
        case StudyStopError():
            return failure("study", str(error))
        case UserError():
            return failure("user", str(error))
        case NonFiniteError() | FloatingPointError():
            return failure("non-finite", str(error))
        case TooManyItemErrors():
            return failure("task", str(error))
    kind = kind_of(error)
    return failure(kind, str(error) if kind == "oom" and str(error) else described(error))


def described(error: BaseException) -> str:
    """Describe an unexpected error by its type, its message and the line that raised it."""
    frames = extract_tb(error.__traceback__)
    location = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{location}"


class TooManyItemErrors(Exception):
    """Too many items could not be graded for the score to mean anything."""


def wrong_answers_for_errors(
    outcomes: Sequence[OutcomeRow], harness: Harness, mode: str
) -> tuple[list[OutcomeRow], list[list[Any]]]:
    """Count items that could not be graded as wrong answers.

    An item whose task raised, or gave no number where its metric was asked for, counts as wrong:
    0 by the metric, and 0 by the smooth score where that follows from the metric.

    Returns:
        The outcomes without gaps, and [task, document, error message] of each that had one.

    Raises:
        TooManyItemErrors: More than a tenth of the items, or an item of a metric that is better
            when lower, and so has no worst value.
    """
    whole, errors = [], []
    for outcome in outcomes:
        message = harness.errors.get((outcome.task, outcome.doc_id))
        if message is None and mode == "metric" and outcome.metric is None:
            message = "the metric gave no finite number"
        if message is not None:
            errors.append([outcome.task, outcome.doc_id, redact(" ".join(message.split()))[:300]])
            worst = 0.0 if harness.metrics[outcome.task].higher_is_better else None
            if mode == "metric":
                outcome = outcome._replace(metric=worst)
            elif outcome.smooth is None:
                outcome = outcome._replace(smooth=0.0)
        whole.append(outcome)
    lacking = mode == "metric" and any(outcome.metric is None for outcome in whole)
    if errors and (lacking or len(errors) > MOST_ITEM_ERRORS * len(outcomes)):
        task, document, first = errors[0]
        raise TooManyItemErrors(
            f"{len(errors)} of {len(outcomes)} items could not be graded; the first, document "
            f"{document} of task '{task}': {first}"
        )
    return whole, errors
