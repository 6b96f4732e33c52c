"""Defines the ask/tell contract that every optimizer keeps."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from evomerge.core.errors import UserError
from evomerge.optimizers.checks import (
    MOST_POINTS,
    check_dimensions,
    check_fitness,
    checked_initial,
    checked_seed,
    fitness_vectors,
    whole_number,
)
from evomerge.optimizers.coordinates import Coordinates, Mask
from evomerge.recipe.space.dimension import Dimension, Point

ItemScores = Mapping[str, Mapping[int, float]]  # task -> item -> score, higher is better


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
    dimensions, seed, initial point and population, then ask and tell the same generations again.

    A failed point has fitness ``None`` and counts as the worst of its generation. A generation
    that ranks nothing (all failed, or all equal) leaves the search where it was.

    Args:
        population: How many points a generation has; ``None`` means ``4 + floor(3 ln d)``.
        seed: The seed used when `start` is given none.
    """

    #: False for one whose points do not depend on fitness.
    adapts: bool = True
    #: False if it searches certain spaces only; `start` then refuses others.
    any_space: bool = True
    #: True if its guarantees hold only when all generations are scored on the same items.
    same_items: bool = False
    #: True if it compares fitness across generations; on other items these are other scales.
    compares_generations: bool = False
    #: True if it learns from the scores of each item (see `tell`).
    learns_from_items: bool = False
    #: True if it learns from the gradient of its `loss` at each point (see `tell`).
    learns_from_gradients: bool = False
    #: What the gradient is of, in an optimizer that learns from one.
    loss: str = ""
    #: Whether it follows parameters that elect signs, as if no sign changed.
    piecewise: bool = False
    #: True if it can search for several objectives at once.
    takes_vectors: bool = False
    #: The smallest generation it can work with.
    smallest_population: int = 1
    #: The options that it was made with, so that a study can write them down.
    options: dict[str, Any]

    def __new__(cls, *arguments: Any, **named_arguments: Any) -> Self:
        """Record the options."""
        optimizer = super().__new__(cls)
        signature = inspect.signature(cls.__init__)
        bound = signature.bind(optimizer, *arguments, **named_arguments)
        options = dict(list(bound.arguments.items())[1:])  # without self
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:  # passed on: these are options, too
                options |= options.pop(name, {})
        optimizer.options = options
        return optimizer

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
                "nsga2, tpe, gp or another sampler of optuna, simplex_grid, or random"
            )
        self._objectives = objectives
        check_dimensions(dimensions)
        self._coordinates = Coordinates(dimensions)
        self._initial = checked_initial(dimensions, initial)
        self._seed = checked_seed(self._seed_option if seed is None else seed)
        self._population = self._choose_population(population)
        self._asked, self._started = None, True
        self._scores: list[ItemScores | None] = []
        self._loss_gradients: list[Sequence[float] | None] = []
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
        gradients: Sequence[Sequence[float] | None] | None = None,
    ) -> None:
        """Learn from a generation.

        Args:
            points: The points of the last `ask`, in the same order.
            fitness: For each point a finite number, larger is better, or ``None`` if it failed;
                with several objectives a list of as many numbers.
            scores: The scores of each point, ``{task: {item: score}}``, higher is better; used by
                an optimizer that `learns_from_items`, which works without them too.
            gradients: The derivative of the loss along each dimension at each point, 0 where there
                is none, or ``None`` if the point failed; for an optimizer that
                `learns_from_gradients`.
        """
        self._check_started("tell")
        if self._asked is None:
            raise RuntimeError("tell() was called without ask(): nothing was asked since")
        vectors = fitness_vectors(fitness, self._objectives)
        check_fitness(self._asked, points, vectors)
        self._asked = None
        self._scores = list(scores) if scores is not None else [None] * len(points)
        self._loss_gradients = list(gradients) if gradients is not None else [None] * len(points)
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
    def origin(self) -> Point:
        """The point that it started from; what it does not search keeps its value there."""
        self._check_started("origin")
        return self._initial

    @property
    def milestones(self) -> list[Point]:
        """Points on its way that may be better than its end; they race too."""
        return []

    @property
    def stopped(self) -> str | None:
        """The reason why nothing is left to search; ``None`` while there is something."""
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
        """Update the state likewise with several objectives, in an optimizer that takes vectors."""
        raise NotImplementedError

    def _choose_population(self, population: int | None) -> int:
        chosen = self._population_option if population is None else population
        if chosen is None:
            return max(default_population(len(self._coordinates)), self.smallest_population)
        label = f"search population for {type(self).__name__}"
        return whole_number(label, chosen, self.smallest_population, MOST_POINTS)

    def _check_started(self, member: str) -> None:
        if not self._started:
            raise RuntimeError(f"{member} was used before start(): call start(dimensions, seed)")


def default_population(n_coordinates: int) -> int:
    """Return 4 + floor(3 ln d) (Hansen 2016, https://arxiv.org/abs/1604.00772, eq. 48)."""
    return 4 + math.floor(3 * math.log(n_coordinates))


def ranks(fitness: Sequence[float | None]) -> NDArray[np.float64] | None:
    """Rank a generation: 0 for the best; failures last; ties in the order asked.

    Ranks keep what these optimizers use of the fitness, its order, and make them indifferent
    to its scale, to outliers and to how bad a failure is said to be.

    Returns:
        One rank per point, or ``None`` if all are equal.

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
