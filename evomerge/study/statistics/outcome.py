"""Turns per-item outcomes into the one number that the optimizer sees: the objective."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NotRequired, TypedDict

from evomerge.evaluate.outcomes import OutcomeRow, ScoreKind

DocId = int  # a document's index in its task


class TaskSpec(TypedDict):
    """A task as in the journal's ``study`` event; `bounds` are those that the study file gives."""

    metric: str
    higher_is_better: bool
    weight: float
    output_type: NotRequired[str]
    bounds: NotRequired[Sequence[float]]
    sampled: NotRequired[bool]  # whether its answers are drawn at random


Tasks = Mapping[str, TaskSpec]

# Metrics of lm-eval that are shares of right answers, on one document too.
_SHARES = frozenset({"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match"})


def bounds(spec: TaskSpec) -> tuple[float, float] | None:
    """Return the least and the greatest value that a task's metric can have; ``None`` if unknown.

    >>> bounds({"metric": "acc", "higher_is_better": True, "weight": 1.0})
    (0.0, 1.0)
    >>> bounds({"metric": "bits_per_byte", "higher_is_better": False, "weight": 1.0}) is None
    True
    """
    if "bounds" in spec:
        low, high = spec["bounds"]
        return float(low), float(high)
    return (0.0, 1.0) if spec["metric"] in _SHARES else None


def fitness(
    rows: Iterable[Sequence[object]], tasks: Tasks, score_kind: ScoreKind = "smooth"
) -> float:
    """Return the weighted mean over tasks of each task's mean per-item score; higher is better.

    fitness = Σ_t w_t mean_i(score_ti) / Σ_t w_t

    Args:
        rows: Outcomes of one trial, `OutcomeRow` or lists in its order; every task needs one.
        tasks: The study's tasks. A task of weight 0 is scored and does not count.
        score_kind: ``metric`` is negated where lower is better; of ``smooth`` more is better.
            A task with an item that has no smooth score counts by its metric as a whole, since
            a mean over two units means nothing.

    Raises:
        ValueError: A task has no rows, or a value is missing, NaN or infinite.
    """
    by_task = _by_task(rows)
    return weighted(
        {task: _mean(task, by_task.get(task, []), tasks[task], score_kind) for task in tasks}, tasks
    )


def scores(
    rows: Iterable[Sequence[object]], tasks: Tasks, score_kind: ScoreKind = "metric"
) -> dict[str, float]:
    """Return the mean score of every task that has rows, in the task's own direction."""
    by_task = _by_task(rows)
    return {
        task: sign(tasks[task], _used(task_rows, score_kind))
        * _mean(task, task_rows, tasks[task], score_kind)
        for task, task_rows in by_task.items()
    }


def item_scores(
    rows: Iterable[Sequence[object]], tasks: Tasks, score_kind: ScoreKind = "smooth"
) -> dict[str, dict[DocId, float]]:
    """Return every item's score by task, higher is better; what `fitness` takes the mean of."""
    by_task: dict[str, dict[DocId, float]] = {}
    for task, task_rows in _by_task(rows).items():
        used = _used(task_rows, score_kind)
        better = sign(tasks[task], used)
        values = ((row.doc_id, row.smooth if used == "smooth" else row.metric) for row in task_rows)
        by_task[task] = {i: better * value for i, value in values if value is not None}
    return by_task


def weighted(by_task: Mapping[str, float], tasks: Tasks) -> float:
    """Return Σ_t w_t x_t / Σ_t w_t, for one number per task."""
    shares = weights(tasks)
    return math.fsum(shares[task] * by_task[task] for task in tasks)


def weights(tasks: Tasks) -> dict[str, float]:
    """Return each task's share of the whole; they add up to 1.

    Raises:
        ValueError: There is no task, a weight is negative or not finite, or all are 0.
    """
    total = math.fsum(spec["weight"] for spec in tasks.values())
    if not 0 < total < math.inf or any(spec["weight"] < 0 for spec in tasks.values()):
        given = {task: spec["weight"] for task, spec in tasks.items()}
        raise ValueError(f"task weights must be >= 0 with a positive sum, but got {given}")
    return {task: spec["weight"] / total for task, spec in tasks.items()}


def sign(spec: TaskSpec, score_kind: ScoreKind = "metric") -> int:
    """Return 1, or -1 for a metric of which less is better (a perplexity, an error rate)."""
    return 1 if score_kind == "smooth" or spec["higher_is_better"] else -1


def _by_task(rows: Iterable[Sequence[object]]) -> dict[str, list[OutcomeRow]]:
    by_task: dict[str, list[OutcomeRow]] = {}
    for values in rows:
        row = OutcomeRow(*values)  # type: ignore[arg-type]  # the journal's lists hold just these
        by_task.setdefault(row.task, []).append(row)
    return by_task


def _mean(task: str, rows: Sequence[OutcomeRow], spec: TaskSpec, score_kind: ScoreKind) -> float:
    """Return the mean of one task's scores, higher is better."""
    if not rows:
        raise ValueError(f"task {task} has no outcomes to score")
    used = _used(rows, score_kind)
    values = [row.smooth if used == "smooth" else row.metric for row in rows]
    known = [value for value in values if value is not None and math.isfinite(value)]
    if len(known) < len(values):
        bad = next(row for row, value in zip(rows, values, strict=True) if value not in known)
        raise ValueError(f"task {task}, item {bad.doc_id}: {used} is missing or not finite")
    return sign(spec, used) * math.fsum(known) / len(known)


def _used(rows: Sequence[OutcomeRow], score_kind: ScoreKind) -> ScoreKind:
    missing = any(row.smooth is None for row in rows)
    return "metric" if missing else score_kind
