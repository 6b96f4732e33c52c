"""Compares models on the held-out items, two by two, item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evomerge.evaluate.outcomes import OutcomeRow
from evomerge.study.statistics.outcome import DocId, Tasks, sign
from evomerge.study.statistics.paired import Difference, paired_difference

_ONE_ERROR = 0.6827  # confidence of an interval of one standard error to either side


@dataclass(frozen=True)
class Entrant:
    """One model measured on the held-out items.

    Attributes:
        trial: Its number.
        kind: The trial's kind: parent, base, anchor, trial or mean.
        name: For people.
        digest: Its recipe's digest.
        rows: Its held-out outcomes, with the tasks' own metrics.
        race_score: Its score when the race last compared it, higher is better; None if it did not
            take part.
        raced_out: Whether the race found it worse than another candidate.
    """

    trial: int
    kind: str
    name: str
    digest: str
    rows: Sequence[OutcomeRow]
    race_score: float | None = None
    raced_out: bool = False


@dataclass(frozen=True)
class Comparison(Difference):
    """A paired difference with its counts: on how many items ours was better, worse, the same."""

    wins: int
    losses: int
    ties: int
    items: int


def compare(
    ours: Sequence[OutcomeRow], theirs: Sequence[OutcomeRow], tasks: Tasks, confidence: float = 0.95
) -> Comparison:
    """Compare two models over the same items; positive where ours is better.

    Raises:
        ValueError: The items differ, or a metric value is missing, NaN or infinite.
    """
    a, b = _metric(ours), _metric(theirs)
    if a.keys() != b.keys():
        odd = sorted(a.keys() ^ b.keys())
        raise ValueError(f"expected the same items on both sides, but only one has {odd[:3]}")
    columns: tuple[dict[str, list[float]], dict[str, list[float]]] = ({}, {})
    wins = losses = 0
    for task, doc_id in sorted(a):
        values = a[task, doc_id], b[task, doc_id]
        for column, value in zip(columns, values, strict=True):
            column.setdefault(task, []).append(value)
        gain = sign(tasks[task]) * (values[0] - values[1])
        wins += gain > 0
        losses += gain < 0
    paired = paired_difference(*columns, tasks, confidence)
    ties = len(a) - wins - losses
    return Comparison(paired.difference, paired.low, paired.high, wins, losses, ties, len(a))


def simplest(
    order: Sequence[int], scored: Mapping[int, Sequence[OutcomeRow] | None], best: int, tasks: Tasks
) -> int:
    """Return the first in an order that is within one standard error of the best.

    Breiman 1984, Classification and Regression Trees, section 3.4.3; the error is that of the
    paired difference to the best.

    Args:
        order: Candidates, the simplest first, the best among them.
        scored: Each one's outcomes on the same items; ``None`` if it could not be scored.
        best: The one of the highest score.
        tasks: Directions and weights.
    """
    top = scored[best]
    assert top is not None
    return next(
        number
        for number in order
        if number == best
        or ((rows := scored[number]) and compare(top, rows, tasks, _ONE_ERROR).low <= 0)
    )


def _metric(rows: Sequence[OutcomeRow]) -> dict[tuple[str, DocId], float]:
    missing = [row[:2] for row in rows if row.metric is None]
    if missing:
        raise ValueError(f"no metric value for {missing[:3]}")
    return {(row.task, row.doc_id): row.metric for row in rows if row.metric is not None}
