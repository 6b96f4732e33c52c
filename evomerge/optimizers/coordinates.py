"""Maps points to the unit cube, in whose coordinates the evolution strategies search, and back.

A float dimension maps its range (or the logarithm of its range) onto [0, 1]. A dimension with
n separate values maps them onto n cells of [0, 1], each value in the middle of its cell. A
dimension with a single value has no coordinate at all: it is filled in when decoding.

Decoded floats keep six digits of their range. No merge can tell more apart (bfloat16 keeps two or
three), recipes stay readable, and a search resumed on another processor, where linear algebra
differs in the last bits, still asks for the same points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from evomerge.recipe.space.dimension import Dimension, Point, Value

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Coordinates:
    """Unit coordinates of a space.

    Attributes:
        dimensions: The dimensions, in the order of a point's values.
        free: Which dimensions have more than one value; coordinate i belongs to dimension free[i].
        cells: For each coordinate its number of separate values; 0 for a continuous one.
        conditional: True if a dimension is active at certain points only. At other points its value
            takes no part in the recipe.
    """

    def __init__(self, dimensions: Sequence[Dimension]) -> None:
        self.dimensions = tuple(dimensions)
        counts = [n_values(dimension) for dimension in self.dimensions]
        self.free = tuple(i for i, count in enumerate(counts) if count != 1)
        self.cells = tuple(counts[i] for i in self.free)
        self._decoders = [_decoder(dimension) for dimension in self.dimensions]
        self._middle = [decoded(0.5) for decoded in self._decoders]
        at = {dimension.name: i for i, dimension in enumerate(self.dimensions)}
        self._needs = {
            i: [[(at[name], values) for name, values in clause] for clause in dimension.needs]
            for i, dimension in enumerate(self.dimensions)
            if dimension.needs
        }
        self.conditional = bool(self._needs)

    def __len__(self) -> int:
        return len(self.free)

    def encode(self, point: Point) -> Floats:
        """Map a point to its unit coordinates, an array of len(self) values in [0, 1]."""
        units = [_to_unit(self.dimensions[i], point[i]) for i in self.free]
        return np.array(units, dtype=np.float64)

    def decode(self, units: Sequence[float] | Floats) -> Point:
        """Map unit coordinates, clipped into [0, 1], to the point that they stand for."""
        values = list(self._middle)
        for i, unit in zip(self.free, np.asarray(units, dtype=np.float64).tolist(), strict=True):
            values[i] = self._decoders[i](_clipped(unit, 0.0, 1.0))
        return tuple(values)

    def inactive(self, points: Sequence[Point]) -> Mask:
        """Mark the coordinates that are inactive at each point: a mask (points, coordinates)."""
        by_point = [self._inactive_dimensions(point) for point in points]
        return np.array([[i in inactive for i in self.free] for inactive in by_point], dtype=bool)

    def at_start(self, point: Point) -> Point:
        """Put every inactive dimension at its start, so that equal recipes are equal points."""
        inactive = self._inactive_dimensions(point)
        return tuple(
            self.dimensions[i].start if i in inactive else value for i, value in enumerate(point)
        )

    def fill_inactive(self, units: Floats, substitute: Floats) -> Floats:
        """Take coordinates from `substitute` where they are inactive; one row or several."""
        if not self.conditional:
            return units
        rows = np.atleast_2d(units)
        inactive = self.inactive([self.decode(row) for row in rows]).reshape(units.shape)
        result: Floats = np.where(inactive, substitute, units)
        return result

    def is_inactive(self, i: int, point: Sequence[Value]) -> bool:
        """Return whether dimension i is inactive at a point."""
        return not all(
            any(point[j] in values for j, values in clause) for clause in self._needs.get(i, ())
        )

    def _inactive_dimensions(self, point: Point) -> set[int]:
        return {i for i in self._needs if self.is_inactive(i, point)}

    def midpoints(self, coordinate: int) -> list[float]:
        """Return the middle of each cell of a coordinate made of cells, in increasing order."""
        dimension = self.dimensions[self.free[coordinate]]
        if dimension.kind == "categorical":
            return [_to_unit(dimension, choice) for choice in dimension.choices]
        low, high = integer_range(dimension)
        return [_to_unit(dimension, value) for value in range(low, high + 1)]


def n_values(dimension: Dimension) -> int:
    """Count the separate values of a dimension; 0 means a continuum."""
    if dimension.kind == "categorical":
        return len(dimension.choices)
    if dimension.kind == "int":
        low, high = integer_range(dimension)
        return high - low + 1
    return 0 if dimension.low < dimension.high else 1


def integer_range(dimension: Dimension) -> tuple[int, int]:
    """Return the smallest and the largest integer in [low, high]."""
    return math.ceil(dimension.low), math.floor(dimension.high)


def _to_unit(dimension: Dimension, value: Value) -> float:
    if dimension.kind == "categorical":
        return (choice_index(dimension, value) + 0.5) / len(dimension.choices)
    low, high = _edges(dimension)
    scaled = math.log(float(value)) if dimension.log else float(value)
    return min(max((scaled - low) / (high - low), 0.0), 1.0)


def _decoder(dimension: Dimension) -> Callable[[float], Value]:
    """Make the function that maps [0, 1] to the values of a dimension.

    Made once, called for every point.
    """
    if dimension.kind == "categorical":
        choices = dimension.choices
        return lambda unit: choices[min(int(unit * len(choices)), len(choices) - 1)]
    low, high = _edges(dimension)
    if dimension.kind == "int":
        smallest, largest = integer_range(dimension)
        exp = math.exp if dimension.log else float
        return lambda unit: min(max(round(exp(low + unit * (high - low))), smallest), largest)
    if dimension.log:
        return lambda unit: rounded(dimension, math.exp(low + unit * (high - low)))
    digits = _digits(high - low)
    return lambda unit: _clipped(round(low + unit * (high - low), digits), low, high)


def rounded(dimension: Dimension, value: float) -> float:
    """Keep six digits of a float dimension's range (of the value itself if it is logarithmic).

    >>> rounded(Dimension("weight", low=0.0, high=1.0), 1 / 3)
    0.333333
    """
    digits = _digits(value if dimension.log else dimension.high - dimension.low)
    return _clipped(round(value, digits), float(dimension.low), float(dimension.high))


def _digits(scale: float) -> int:
    """Return decimal places that keep six digits of a scale; all of them if it is 0."""
    return 6 - math.floor(math.log10(scale)) if scale > 0 else 400


def _clipped(value: float, low: float, high: float) -> float:
    return value if low <= value <= high else min(max(value, low), high)


def choice_index(dimension: Dimension, value: Value) -> int:
    """Return the index of `value` among the choices; True is not 1 here."""
    return next(
        i
        for i, choice in enumerate(dimension.choices)
        if choice == value and type(choice) is type(value)
    )


def _edges(dimension: Dimension) -> tuple[float, float]:
    """Return the values that 0 and 1 stand for, as logarithms if the range is logarithmic."""
    low, high = float(dimension.low), float(dimension.high)
    if dimension.kind == "int":  # half a step on either side: every integer has a whole cell
        smallest, largest = integer_range(dimension)
        low, high = smallest - 0.5, largest + 0.5
    return (math.log(low), math.log(high)) if dimension.log else (low, high)
