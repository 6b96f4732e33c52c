"""Several objectives: what no other trial beats, and how much room that dominates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evomerge.study.journal.record import Record
from evomerge.study.trial import pareto_front

Vector = Sequence[float]


def front_of(record: Record) -> dict[str, Any] | None:
    """The search's Pareto front, of gains over the reference by task; ``None`` without objectives.

    Returns:
        ``trials``, their numbers, and ``hypervolume``, of what they dominate above the reference.
        Both are of noisy scores on items that differ by generation: partly luck.
    """
    vectors: dict[int, Vector] = {}
    for ask in record.generations.values():
        broken_by = ask.violations or (0.0,) * len(ask.trials)
        told = zip(ask.trials, ask.objectives or (), broken_by, strict=False)
        vectors |= {n: vector for n, vector, broken in told if vector is not None and not broken}
    if not vectors:
        return None
    numbers = list(vectors)
    front = [numbers[i] for i in pareto_front([vectors[n] for n in numbers])]
    zero = [0.0] * len(vectors[numbers[0]])
    return {"trials": front, "hypervolume": hypervolume([vectors[n] for n in front], zero)}


def hypervolume(vectors: Sequence[Vector], reference: Vector) -> float:
    """The volume of what these vectors dominate above a reference; higher is better throughout.

    Zitzler 1999. Cut into slices along the last objective, recursively: exact, and quick enough
    for the fronts of searches (tens of points, a handful of objectives).

    >>> hypervolume([(3, 1), (2, 2), (1, 3)], (0, 0))
    6.0
    """
    above = [v for v in vectors if all(x > r for x, r in zip(v, reference, strict=True))]
    if not above:
        return 0.0
    if len(reference) == 1:
        return float(max(v[0] for v in above) - reference[0])
    volume, floor = 0.0, reference[-1]
    for height in sorted({v[-1] for v in above}):
        slab = [v[:-1] for v in above if v[-1] >= height]
        volume += (height - floor) * hypervolume(slab, reference[:-1])
        floor = height
    return float(volume)
