"""Compares models on the held-out items, two by two, item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evomerge.evaluate.outcomes import OutcomeRow
from evomerge.study.statistics.outcome import DocId, Tasks, sign
from evomerge.study.statistics.paired import Difference, Labels, paired_difference

Clusters = Mapping[str, Mapping[DocId, int]]  # by task and item; what is in none stands alone
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


@dataclass(frozen=True, kw_only=True)
class Comparison(Difference):
    """A paired difference with its counts: on how many items ours was better, worse, the same."""

    wins: int
    losses: int
    ties: int
    items: int


@dataclass(frozen=True, kw_only=True)
class RivalComparison(Comparison):
    """The race's winner against one rival, which is trial number `trial` and called `against`."""

    against: str
    kind: str
    trial: int


def compare(
    ours: Sequence[OutcomeRow],
    theirs: Sequence[OutcomeRow],
    tasks: Tasks,
    confidence: float = 0.95,
    clusters: Clusters | None = None,
) -> Comparison:
    """Compare two models over the same items; positive where ours is better.

    Args:
        ours: One model's outcomes.
        theirs: The other's.
        tasks: Directions and weights.
        confidence: Of the interval.
        clusters: Numbers of the clusters that items are in; ``None``: all stand alone.

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
    items: dict[str, list[DocId]] = {}
    for task, doc_id in sorted(a):
        items.setdefault(task, []).append(doc_id)
    paired = paired_difference(*columns, tasks, confidence, labels_of(items, clusters))
    ties = len(a) - wins - losses
    return Comparison(**vars(paired), wins=wins, losses=losses, ties=ties, items=len(a))


def labels_of(items: Mapping[str, Sequence[DocId]], clusters: Clusters | None) -> Labels | None:
    """Return each item's label: its cluster's number, or one of its own if it is in none."""
    if not clusters:
        return None
    return {
        task: [clusters.get(task, {}).get(i, (task, i)) for i in ids] for task, ids in items.items()
    }


def simplest(
    order: Sequence[int],
    scored: Mapping[int, Sequence[OutcomeRow] | None],
    best: int,
    tasks: Tasks,
    clusters: Clusters | None = None,
) -> int:
    """Return the first in an order that is within one standard error of the best.

    Breiman 1984, Classification and Regression Trees, section 3.4.3; the error is that of the
    paired difference to the best.

    Args:
        order: Candidates, the simplest first, the best among them.
        scored: Each one's outcomes on the same items; ``None`` if it could not be scored.
        best: The one of the highest score.
        tasks: Directions and weights.
        clusters: Those that items are in.
    """
    top = scored[best]
    assert top is not None
    return next(
        number
        for number in order
        if number == best
        or ((rows := scored[number]) and compare(top, rows, tasks, _ONE_ERROR, clusters).low <= 0)
    )


def _metric(rows: Sequence[OutcomeRow]) -> dict[tuple[str, DocId], float]:
    missing = [row[:2] for row in rows if row.metric is None]
    if missing:
        raise ValueError(f"no metric value for {missing[:3]}")
    return {(row.task, row.doc_id): row.metric for row in rows if row.metric is not None}
