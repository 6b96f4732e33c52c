"""Several objectives have a Pareto front, the vectors that no other beats, and its hypervolume."""

from __future__ import annotations

from collections.abc import Sequence

Vector = Sequence[float]


def pareto_front(vectors: Sequence[Sequence[float]]) -> list[int]:
    """Return the indices of the vectors that no other beats: better somewhere, nowhere worse.

    Args:
        vectors: Equally long, higher is better.

    >>> pareto_front([(1, 1), (3, 0), (0, 3), (3, 0), (2, 0)])
    [0, 1, 2, 3]
    """
    front: list[int] = []
    # In falling order nothing is beaten by what comes later, so the front so far decides.
    for i in sorted(range(len(vectors)), key=lambda i: tuple(vectors[i]), reverse=True):
        if not any(_beats(vectors[j], vectors[i]) for j in front):
            front.append(i)
    return sorted(front)


def hypervolume(vectors: Sequence[Vector], reference: Vector) -> float:
    """Return the volume that these vectors dominate above a reference; higher is better.

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


def _beats(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(x >= y for x, y in zip(a, b, strict=True)) and tuple(a) != tuple(b)
