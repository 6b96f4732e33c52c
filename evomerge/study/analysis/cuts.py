"""Cuts through a search space: a line through two points, a slice, a point with parts of another.

Steps are even in a dimension's range, or in its logarithm where it is searched so; whole numbers
are rounded; a choice changes half-way.
"""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.recipe.space.dimension import Dimension, Point, Value


def line(
    dimensions: Sequence[Dimension], start: Point, winner: Point, n: int, length: float
) -> dict[float, Point]:
    """Return `n` points by their position on the line from the start (0) through the winner (1).

    It goes on to about `length`. There are none if start and winner are the same.
    """
    if start == winner:
        return {}
    steps = max(1, round((n - 1) / length))  # from the start to the winner
    return {
        i / steps: tuple(map(interpolated, dimensions, start, winner, [i / steps] * len(winner)))
        for i in range(n)
    }


def interpolated(dimension: Dimension, a: Value, b: Value, position: float) -> Value:
    """Return the value between a (0) and b (1) or beyond them, clipped to its range."""
    if dimension.kind == "categorical" or position in (0, 1) or a == b:
        return a if position < 0.5 else b
    x, y = float(a), float(b)
    value = x * (y / x) ** position if dimension.log else x + (y - x) * position
    if dimension.kind == "int":
        value = round(value)
    return min(max(value, dimension.low), dimension.high)


def axes(
    dimensions: Sequence[Dimension], start: Point, winner: Point, important: Sequence[str]
) -> list[int]:
    """Return the two dimensions of the slice, or the only one."""
    names = [d.name for d in dimensions]
    if important:
        return [names.index(name) for name in important[:2]]
    apart = [_apart(*three) for three in zip(dimensions, start, winner, strict=True)]
    return sorted(range(len(names)), key=lambda i: -apart[i])[:2]


def _apart(dimension: Dimension, a: Value, b: Value) -> float:
    """Return the distance of two values, in ranges of the dimension."""
    if dimension.kind == "categorical":
        return float(a != b)
    return abs(float(a) - float(b)) / max(dimension.high - dimension.low, 1e-12)


def values(dimension: Dimension, at: Value, n: int) -> list[Value]:
    """Return values over the whole range, the winner's instead of the nearest one."""
    if dimension.kind == "categorical":
        return list(dimension.choices)
    low, high = dimension.low, dimension.high
    if dimension.kind == "int":
        low, high = int(low), int(high)
    values = [interpolated(dimension, low, high, i / (n - 1)) for i in range(n)]
    nearest = min(range(n), key=lambda i: abs(float(values[i]) - float(at)))
    values[nearest] = at
    return list(dict.fromkeys(values))


def moved(point: Point, axes: Sequence[int], values: Sequence[Value]) -> Point:
    """Return the point with these values on these axes."""
    moved = list(point)
    for axis, value in zip(axes, values, strict=True):
        moved[axis] = value
    return tuple(moved)


def parts(dimensions: Sequence[Dimension], start: Point, winner: Point) -> dict[str, Point]:
    """Return the winner with one part of the recipe as it is in the start, where that differs."""
    axes: dict[str, list[int]] = {}
    for i, dimension in enumerate(dimensions):
        for part in parts_of(dimension):
            axes.setdefault(part, []).append(i)
    put_back = {
        part: moved(winner, part_axes, [start[i] for i in part_axes])
        for part, part_axes in axes.items()
    }
    return {part: point for part, point in put_back.items() if point not in (winner, start)}


def parts_of(dimension: Dimension) -> list[str]:
    """Return the parts of a recipe that a dimension belongs to: its block, its knot, its model.

    >>> parts_of(Dimension("models[a].weight[3]", model="a", gradient="models[a].weight", knot=3))
    ['knot 3', 'model a']
    """
    parts = {"block": dimension.block, "knot": dimension.knot, "model": dimension.model}
    return [f"{kind} {part}" for kind, part in parts.items() if part is not None]
