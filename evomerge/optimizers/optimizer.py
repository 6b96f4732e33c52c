"""The ask/tell contract that every optimizer keeps, and the checks that all of them share."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from evomerge.core.errors import UserError, unknown
from evomerge.optimizers.coordinates import Coordinates, Mask, n_values
from evomerge.recipe.space.dimension import Dimension, Point, Value

ItemScores = Mapping[str, Mapping[int, float]]  # task -> item -> score, higher is better
MOST_POINTS = 100_000  # asked at once, or on a grid: more is a mistake, and would fill the memory


class Optimizer(ABC):
    """Proposes points, a generation at a time, and learns from their fitness; it maximises.

    >>> from evomerge.recipe.space.dimension import Dimension
    >>> from evomerge.optimizers import create
    >>> optimizer = create("random", population=2)
    >>> optimizer.start([Dimension("weight", low=0.0, high=2.0)], seed=0)
    >>> points = optimizer.ask()
    >>> points[0]
    (1.0,)
    >>> optimizer.tell(points, [0.5, None])

    Everything follows from the seed: there is no state to save. To resume, start with the same
    dimensions, seed, initial point and population, then ask again and tell again what was told.

    A failed point has fitness ``None`` and counts as the worst of its generation. A generation
    that ranks nothing (all failed, or all equal) leaves the search where it was.

    Args:
        population: How many points a generation has; ``None`` means ``4 + floor(3 ln d)``.
        seed: The seed used when `start` is given none.
    """

    #: Whether it learns from what it is told.
    adapts: bool = True
    #: Whether it can search any space; otherwise it says in `start` which it can.
    any_space: bool = True
    #: Whether all its generations have to see the same items, or its promises are void.
    same_items: bool = False
    #: Whether it compares fitness of different generations; on other items these are other scales.
    compares_generations: bool = False
    #: Whether it wants to be told what a point scored on each item (see `tell`).
    learns_from_items: bool = False
    #: Whether it can search for several objectives at once.
    takes_vectors: bool = False
    #: The smallest generation it can work with.
    smallest_population: int = 1
    #: The options that it was made with, so that a study can write them down.
    options: dict[str, Any]

    def __new__(cls, *given: Any, **named: Any) -> Self:
        """Remember the options."""
        made = super().__new__(cls)
        bound = inspect.signature(cls.__init__).bind(made, *given, **named)
        options = dict(list(bound.arguments.items())[1:])
        made.options = options.pop("sampler_options", {}) | options
        return made

    def __init__(self, population: int | None = None, seed: int | None = None) -> None:
        self._population_option = population
        self._seed_option = seed
        self._population = 0
        self._asked: list[Point] | None = None
        self._started = False

    def start(
        self,
        dimensions: Sequence[Dimension],
        seed: int | None = None,
        initial: Point | None = None,
        population: int | None = None,
        objectives: int = 1,
    ) -> None:
        """Begin a search.

        Args:
            dimensions: What to search; at least one must have more than one value.
            seed: A non-negative integer; ``None`` means the constructor's, or else 0.
            initial: The point to start from; ``None`` means every dimension's own start.
            population: How many points a generation has; overrides the constructor's.
            objectives: With more than one, `tell` takes as many numbers per point, each of them
                larger where it is better.
        """
        if objectives > 1 and not self.takes_vectors:
            raise UserError(
                f"{type(self).__name__} searches for one number: with several objectives use "
                "nsga2, tpe, gp or another sampler of optuna, or random"
            )
        self._objectives = objectives
        _check_dimensions(dimensions)
        self._coordinates = Coordinates(dimensions)
        self._initial = _check_initial(dimensions, initial)
        self._seed = _check_seed(self._seed_option if seed is None else seed)
        self._population = self._choose_population(population)
        self._asked, self._started = None, True
        self._scores: list[ItemScores | None] = []
        #: Which coordinates are inactive at each point last asked; None if none ever is.
        self._inactive: Mask | None = None
        self._begin()

    def ask(self) -> list[Point]:
        """Propose one generation: a list of `population` points.

        A dimension that is inactive at a point is at its start there: equal recipes are equal
        points, and what the optimizer drew for it counts for nothing.
        """
        self._check_started("ask")
        if self._asked is not None:
            raise RuntimeError("ask() was called twice: expected tell() after the first ask()")
        points = self._propose()
        if self._coordinates.conditional:
            self._inactive = self._coordinates.inactive(points)
            points = [self._coordinates.at_start(point) for point in points]
        self._asked = points
        return list(points)

    def tell(
        self,
        points: Sequence[Point],
        fitness: Sequence[float | Sequence[float] | None],
        scores: Sequence[ItemScores | None] | None = None,
    ) -> None:
        """Learn from a generation.

        Args:
            points: The points of the last `ask`, in the same order.
            fitness: For each point a finite number, larger is better, or ``None`` if it failed;
                with several objectives a list of as many numbers.
            scores: What each point scored, ``{task: {item: score}}``, higher is better; used by
                an optimizer that `learns_from_items`, which works without it too.
        """
        self._check_started("tell")
        if self._asked is None:
            raise RuntimeError("tell() was called without ask(): nothing was asked since")
        vectors = _vectors(fitness, self._objectives)
        _check_told(self._asked, points, vectors)
        self._asked = None
        self._scores = list(scores) if scores is not None else [None] * len(points)
        if self._objectives == 1:
            self._learn([None if vector is None else vector[0] for vector in vectors])
        else:
            self._learn_vectors(vectors)

    @property
    def population(self) -> int:
        """The number of points of the next generation."""
        self._check_started("population")
        return self._population

    @property
    def mean(self) -> Point | None:
        """The centre of the search distribution as a feasible point; ``None`` if it has none."""
        return None

    @property
    def stopped(self) -> str | None:
        """Why there is nothing left to search, in words; ``None`` while there is."""
        return None

    @abstractmethod
    def _begin(self) -> None:
        """Set up the state from _coordinates, _initial, _seed and _population."""

    @abstractmethod
    def _propose(self) -> list[Point]:
        """Draw the next generation."""

    @abstractmethod
    def _learn(self, fitness: list[float | None]) -> None:
        """Update the state with the fitness of the generation last proposed."""

    def _learn_vectors(self, fitness: list[list[float] | None]) -> None:
        """The same with several objectives, for those that take vectors."""
        raise NotImplementedError

    def _choose_population(self, population: int | None) -> int:
        chosen = self._population_option if population is None else population
        if chosen is None:
            return max(default_population(len(self._coordinates)), self.smallest_population)
        what = f"search population for {type(self).__name__}"
        return whole_number(what, chosen, self.smallest_population, MOST_POINTS)

    def _check_started(self, what: str) -> None:
        if not self._started:
            raise RuntimeError(f"{what} was used before start(): call start(dimensions, seed)")


def default_population(n_coordinates: int) -> int:
    """Return 4 + floor(3 ln d) (Hansen 2016, https://arxiv.org/abs/1604.00772, eq. 48)."""
    return 4 + math.floor(3 * math.log(n_coordinates))


def ranks(fitness: Sequence[float | None]) -> NDArray[np.float64] | None:
    """Rank a generation: 0 for the best; failures last; ties in the order asked.

    Ranks keep what these optimizers use of the fitness, its order, and make them indifferent
    to its scale, to outliers and to how bad a failure is said to be.

    Returns:
        One rank per point, or ``None`` if nothing tells the points apart.

    >>> ranks([0.1, None, 0.7])
    array([1., 2., 0.])
    """
    losses = np.array([math.inf if value is None else -value for value in fitness])
    if np.all(losses == losses[0]):
        return None
    order = np.argsort(losses, kind="stable")
    ranked = np.empty(len(losses), dtype=np.float64)
    ranked[order] = np.arange(len(losses))
    return ranked


def whole_number(what: str, value: Any, smallest: int, largest: int | None = None) -> int:
    """Return an option that must be an integer in this range, or say what it is instead."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < smallest or (largest is not None and value > largest):
        most = "" if largest is None else f" and <= {largest:,}"
        raise UserError(f"{what}: expected an integer >= {smallest}{most}, but got {value!r}")
    return int(value)


def share_of_range(what: str, value: Any) -> float:
    """Return an option that must lie in (0, 1], or say what it is instead."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not 0 < value <= 1:
        raise UserError(f"{what}: expected a share of the range in (0, 1], but got {value!r}")
    return float(value)


def _check_dimensions(dimensions: Sequence[Dimension]) -> None:
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


def _check_initial(dimensions: Sequence[Dimension], initial: Point | None) -> Point:
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


def _check_seed(seed: int | None) -> int:
    return 0 if seed is None else whole_number("search seed", seed, 0)


def _vectors(
    fitness: Sequence[float | Sequence[float] | None], objectives: int
) -> list[list[float] | None]:
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


def _check_told(
    asked: Sequence[Point], points: Sequence[Point], fitness: Sequence[list[float] | None]
) -> None:
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
