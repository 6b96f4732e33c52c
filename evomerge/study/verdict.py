"""The verdict: is the race's winner better than what needed no search, on items kept back for this?

The winner is compared with the best parent and with the best anchor, item by item. "Best" is what
scores highest on these very held-out items: that rival's luck counts against the winner, never for
it. An improvement is announced only if both intervals lie wholly above 0. The winner itself was
chosen on other items, so its own score here is fair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from evomerge.study.objective import DocId, Row, Tasks, fitness, scores, sign
from evomerge.study.paired import Difference, paired_difference

Kind = Literal["trial", "anchor", "parent"]
_KINDS: Mapping[str, Kind] = {"base": "parent", "parent": "parent", "anchor": "anchor"}


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
    rows: Sequence[Row]
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
    ours: Sequence[Row], theirs: Sequence[Row], tasks: Tasks, confidence: float = 0.95
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
    found = paired_difference(*columns, tasks, confidence)
    return Comparison(
        found.difference, found.low, found.high, wins, losses, len(a) - wins - losses, len(a)
    )


def verdict(
    winner: Entrant, rivals: Sequence[Entrant], tasks: Tasks, confidence: float = 0.95
) -> dict[str, Any]:
    """What ``verdict.json`` says, except how to reproduce it.

    If no improvement is shown, the best parent or anchor is what is recommended, the one that did
    best in the race; unless the race threw all of them out, which leaves its winner, unconfirmed.

    Args:
        winner: The race's winner.
        rivals: Parents, base and anchors with outcomes for the same items; may hold the winner.
        tasks: The study's tasks: directions and weights.
        confidence: That all the comparisons' intervals hold together (Bonferroni).
    """
    simple = [rival for rival in rivals if rival.kind in _KINDS]
    twin = next((rival for rival in simple if rival.digest == winner.digest), None)
    kind = _KINDS.get((twin or winner).kind, "trial")
    others = [rival for rival in simple if rival.digest != winner.digest]
    against = [best for group in ("parent", "anchor") if (best := _best(others, group, tasks))]
    level = 1 - (1 - confidence) / max(1, len(against))
    comparisons = [compare(winner.rows, rival.rows, tasks, level) for rival in against]
    shown = kind == "trial" and bool(against) and all(c.low > 0 for c in comparisons)
    recommended = winner if shown or kind != "trial" else _fallback(winner, others)
    return {
        "winner": _who(winner, kind),
        "improvement_shown": shown,
        "recommended": _who(recommended, kind if recommended is winner else None),
        "sentence": _sentence(winner, kind, shown, recommended, against, comparisons, confidence),
        "scores": {rival.name: scores(rival.rows, tasks) for rival in rivals}
        | {"winner": scores(winner.rows, tasks)},
        "comparisons": [
            {"against": rival.name, "kind": _KINDS[rival.kind], "trial": rival.trial, **asdict(c)}
            for rival, c in zip(against, comparisons, strict=True)
        ],
        "confidence": confidence,
        "note": _note(len(against), level, confidence, tasks),
    }


def with_constraints(
    judged: Mapping[str, Any], held_out: Sequence[Mapping[str, Any]], kept_in_race: bool
) -> dict[str, Any]:
    """A verdict with the constraints on held-out items: one that is broken shows no improvement.

    Args:
        judged: What `verdict` returned.
        held_out: {constraint, score, limit, kept} of the winner.
        kept_in_race: Whether it keeps them on the race's items.
    """
    told = {**judged, "constraints": [dict(c) for c in held_out]}
    words = broken(held_out)
    if not words or judged["winner"]["kind"] != "trial":
        return told
    name, found = judged["winner"]["name"], judged["sentence"].partition(": ")[2]
    told["improvement_shown"] = False
    told["sentence"] = (
        f"No improvement shown: on held-out items {name} breaks {words}"
        f"{', which it keeps on those of the race' if kept_in_race else ''}. "
        f"Whatever the constraints, {found}"
    )
    return told


def broken(table: Sequence[Mapping[str, Any]]) -> str:
    """The constraints of a table {constraint, score, limit, kept} that are broken, in words.

    >>> broken([{"constraint": "qa >= base", "score": 0.5, "limit": 0.625, "kept": False}])
    'qa >= base (0.5000, the limit is 0.6250)'
    """
    return ", ".join(
        f"{c['constraint']} ({c['score']:.4f}, the limit is {c['limit']:.4f})"
        for c in table
        if not c["kept"]
    )


def _metric(rows: Sequence[Row]) -> dict[tuple[str, DocId], float]:
    missing = [row[:2] for row in rows if row.metric is None]
    if missing:
        raise ValueError(f"no metric value for {missing[:3]}")
    return {(row.task, row.doc_id): row.metric for row in rows if row.metric is not None}


def _best(rivals: Sequence[Entrant], group: Kind, tasks: Tasks) -> Entrant | None:
    """The highest of its group on the held-out items, the first of equals."""
    some = [rival for rival in rivals if _KINDS[rival.kind] == group]
    return max(some, key=lambda rival: fitness(rival.rows, tasks, "metric"), default=None)


def _fallback(winner: Entrant, simple: Sequence[Entrant]) -> Entrant:
    """The parent or anchor that did best in the race, or the winner if none stood up to it."""
    stood = [rival for rival in simple if rival.race_score is not None and not rival.raced_out]
    return max(stood, key=lambda rival: rival.race_score or 0.0, default=winner)


def _who(entrant: Entrant, kind: Kind | None) -> dict[str, Any]:
    return {
        "kind": kind or _KINDS[entrant.kind],
        "trial": entrant.trial,
        "digest": entrant.digest,
        "name": entrant.name,
    }


def _sentence(
    winner: Entrant,
    kind: Kind,
    shown: bool,
    recommended: Entrant,
    against: Sequence[Entrant],
    comparisons: Sequence[Comparison],
    confidence: float,
) -> str:
    """The verdict in words, for someone who reads nothing else."""
    if kind != "trial":
        return f"No improvement shown: the race was won by {winner.name}, which needs no search."
    if not against:
        return "No improvement shown: there was no parent or anchor to compare with."
    parts = [
        f"{c.difference:+.4f} ({c.low:+.4f} to {c.high:+.4f}) against the best {_KINDS[r.kind]}, "
        f"{r.name}"
        for r, c in zip(against, comparisons, strict=True)
    ]
    measured = (
        f"{' and '.join(parts)}, on {comparisons[0].items} held-out items "
        f"({100 * confidence:g} % intervals)"
    )
    if shown:
        return f"Improvement shown: {winner.name} scores {measured}."
    advice = (
        f"{recommended.name} did best in the race of what needs no search, and is recommended"
        if recommended is not winner
        else "it is still recommended, since the race put every parent and anchor out"
        if any(rival.race_score is not None for rival in against)
        else "it is still recommended, since no parent or anchor took part in the race"
    )
    return f"No improvement shown: {winner.name} scores {measured}; {advice}."


def _note(comparisons: int, level: float, confidence: float, tasks: Tasks) -> str:
    over = "" if len(tasks) == 1 else " and averaged over the tasks by weight"
    several = (
        f" Each of the {comparisons} intervals has {100 * level:.4g} % confidence, so that all of "
        f"them hold together with {100 * confidence:g} % (Bonferroni)."
        if comparisons > 1
        else ""
    )
    return (
        f"Differences are paired by item{over}; positive means that the winner is better.{several} "
        "Best parent and best anchor are the highest on these same items, which counts against "
        "the winner. Confidence holds for one verdict: not for the best of several studies that "
        "look at the same held-out items."
    )
