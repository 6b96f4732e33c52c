"""A relay of optimizers: each begins where the one before it ended.

So evolution chooses methods, densities and parents, and gradients follow for the weights; or a
gradient search comes first, and evolution goes on in what has no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.optimizers.optimizer import Optimizer
from evomerge.recipe.space.dimension import Point


class Relay(Optimizer):
    """Runs optimizers one after the other; each starts at the mean of the one before.

    One without a mean hands on the best point of its last generation.

    Args:
        legs: The optimizers, and how many points each of them asks for, in whole generations; it is
            the turn of the next one earlier if one stops by itself. The last one goes on.
        seed: The seed used when `start` is given none.
    """

    def __init__(self, legs: Sequence[tuple[Optimizer, int]], seed: int | None = None) -> None:
        super().__init__(seed=seed)
        self._legs = list(legs)
        self.takes_vectors = all(optimizer.takes_vectors for optimizer, _ in legs)

    @property
    def origin(self) -> Point:
        """The point at which the present optimizer started."""
        return self._runner.origin

    @property
    def population(self) -> int:
        """The number of points of the next generation."""
        return self._runner.population

    @property
    def mean(self) -> Point | None:
        """The present optimizer's."""
        return self._runner.mean

    @property
    def milestones(self) -> list[Point]:
        """Return where each optimizer handed on, and where the present one stands."""
        return [*self._handed_on, *self._runner.milestones]

    @property
    def stopped(self) -> str | None:
        """The last optimizer's reason for stopping."""
        return self._runner.stopped if self._turn == len(self._legs) - 1 else None

    def _choose_population(self, population: int | None) -> int:
        self._wanted_population = population
        return 0  # each optimizer has its own

    def _begin(self) -> None:
        self._handed_on: list[Point] = []
        self._start_leg(0, self._initial)

    def _start_leg(self, turn: int, initial: Point) -> None:
        self._turn, self._asked_for = turn, 0
        self._runner = self._legs[turn][0]
        # a generation's size is that of the first optimizer
        population = self._wanted_population if turn == 0 else None
        dimensions = self._coordinates.dimensions
        self._runner.start(dimensions, self._seed, initial, population, self._objectives)
        self.learns_from_gradients = self._runner.learns_from_gradients
        self.learns_from_items = self._runner.learns_from_items
        self.compares_generations = self._runner.compares_generations
        self.same_items = self._runner.same_items
        self.loss, self.piecewise = self._runner.loss, self._runner.piecewise

    def _propose(self) -> list[Point]:
        self._points = self._runner.ask()
        return self._points

    def _learn(self, fitness: list[float | None]) -> None:
        self._runner.tell(self._points, fitness, self._scores, self._loss_gradients)
        known = [(value, -i) for i, value in enumerate(fitness) if value is not None]
        best = self._points[-max(known)[1]] if known else self._runner.origin
        self._hand_on(best)

    def _learn_vectors(self, fitness: list[list[float] | None]) -> None:
        self._runner.tell(self._points, fitness, self._scores)
        self._hand_on(self._points[0])

    def _hand_on(self, best: Point) -> None:
        self._asked_for += len(self._points)
        is_over = self._asked_for + self._runner.population > self._legs[self._turn][1]
        if self._turn < len(self._legs) - 1 and (is_over or self._runner.stopped):
            point = self._runner.mean or best
            self._handed_on.append(point)
            self._start_leg(self._turn + 1, point)
