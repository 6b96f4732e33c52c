"""Refuses wrong arguments of a search: its dimensions, initial point, seed, options, fitness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from evomerge.core.errors import UserError, unknown
from evomerge.optimizers.coordinates import n_values
from evomerge.recipe.space.dimension import Dimension, Point, Value

MOST_POINTS = 100_000  # asked at once, or on a grid: more is a mistake, and would fill the memory


def whole_number(label: str, value: Any, smallest: int, largest: int | None = None) -> int:
    """Return an option that must be an integer in this range, and refuse anything else."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < smallest or (largest is not None and value > largest):
        limit = "" if largest is None else f" and <= {largest:,}"
        raise UserError(f"{label}: expected an integer >= {smallest}{limit}, but got {value!r}")
    return int(value)


def share_of_range(label: str, value: Any) -> float:
    """Return an option that must lie in (0, 1], and refuse anything else."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not 0 < value <= 1:
        raise UserError(f"{label}: expected a share of the range in (0, 1], but got {value!r}")
    return float(value)


def check_dimensions(dimensions: Sequence[Dimension]) -> None:
    """Refuse a space that cannot be searched.

    Raises:
        UserError: A name is used twice, a condition names no dimension, a bound is not finite, or
            no dimension has more than one value.
    """
    names = [dimension.name for dimension in dimensions]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"search space: dimension names must be unique, but got twice: {twice[0]}")
    for dimension in dimensions:
        for needed in [name for clause in dimension.needs for name, _ in clause]:
            if needed not in names:
                raise UserError(
                    f"dimension {dimension.name}: it needs {unknown('dimension', needed, names)}"
                )
    for dimension in dimensions:
        bounds = (dimension.low, dimension.high)
        if dimension.kind != "categorical" and not all(map(math.isfinite, bounds)):
            raise UserError(f"dimension {dimension.name}: expected finite bounds, but got {bounds}")
        if n_values(dimension) < 0 or (dimension.kind == "int" and n_values(dimension) == 0):
            raise UserError(
                f"dimension {dimension.name}: there is no integer in "
                f"[{dimension.low}, {dimension.high}]"
            )
    if all(n_values(dimension) == 1 for dimension in dimensions):
        raise UserError(
            "search space: expected at least one dimension with more than one value, "
            f"but got {len(dimensions)} dimensions and nothing to search; leave a hole in it"
        )


def checked_initial(dimensions: Sequence[Dimension], initial: Point | None) -> Point:
    """Return the initial point with each value of its dimension's type; ``None``: all starts.

    Raises:
        UserError: It has another length, or a value that its dimension does not allow.
    """
    point = tuple(dimension.start for dimension in dimensions) if initial is None else initial
    if len(point) != len(dimensions):
        raise UserError(
            f"initial point: expected {len(dimensions)} values (one per dimension), "
            f"but got {len(point)}"
        )
    for dimension, value in zip(dimensions, point, strict=True):
        if not dimension.contains(value):
            allowed = (
                f"one of {list(dimension.choices)}"
                if dimension.kind == "categorical"
                else f"a value in [{dimension.low}, {dimension.high}]"
            )
            raise UserError(
                f"initial point, dimension {dimension.name}: expected {allowed}, but got {value!r}"
            )
    return tuple(_cast(d, value) for d, value in zip(dimensions, point, strict=True))


def _cast(dimension: Dimension, value: Value) -> Value:
    if dimension.kind == "categorical":
        return value
    return int(value) if dimension.kind == "int" else float(value)


def checked_seed(seed: int | None) -> int:
    """Return the seed, 0 for ``None``; refuse anything but a non-negative integer."""
    return 0 if seed is None else whole_number("search seed", seed, 0)


def fitness_vectors(
    fitness: Sequence[float | Sequence[float] | None], objectives: int
) -> list[list[float] | None]:
    """Return the fitness of each point as a list with one number per objective.

    Raises:
        ValueError: A point has more or fewer numbers.
    """
    vectors: list[list[float] | None] = []
    for value in fitness:
        if value is None:
            vectors.append(None)
            continue
        numbers = list(value) if isinstance(value, Sequence) else [value]
        if len(numbers) != objectives:
            raise ValueError(
                f"tell(): expected {objectives} numbers for each point (one per objective), "
                f"but got {value!r}"
            )
        vectors.append([float(number) for number in numbers])
    return vectors


def check_fitness(
    asked: Sequence[Point], points: Sequence[Point], fitness: Sequence[list[float] | None]
) -> None:
    """Refuse fitness of another generation than the one asked, and fitness that is not finite.

    Raises:
        ValueError: Names the first point or value that is wrong.
    """
    if len(points) != len(asked) or len(fitness) != len(asked):
        raise ValueError(
            f"tell() expected {len(asked)} points and as many fitness values (the generation "
            f"that was asked), but got {len(points)} points and {len(fitness)} values"
        )
    for i, (expected, point) in enumerate(zip(asked, points, strict=True)):
        if tuple(point) != expected:
            raise ValueError(f"tell(): point {i} was not asked: expected {expected}, got {point}")
    for i, vector in enumerate(fitness):
        for value in vector or ():
            if not math.isfinite(value):
                raise ValueError(
                    f"tell(): fitness {i} is {value}: expected a finite number, "
                    "or None for a failure"
                )
