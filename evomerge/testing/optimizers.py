"""What every optimizer has to do, as a class of tests to inherit."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from evomerge.optimizers import Optimizer
from evomerge.recipe.space.dimension import Dimension, Point

_SPACES = {
    "floats": [Dimension("a"), Dimension("b", low=-3.0, high=5.0), Dimension("c", initial=0.0)],
    "mixed": [
        Dimension("weight", low=-1.0, high=2.0),
        Dimension("rate", low=1e-4, high=1.0, log=True),
        Dimension("layers", "int", 1, 8),
        Dimension("method", "categorical", choices=("ties", "dare_ties", "slerp")),
        Dimension("rescale", "categorical", choices=(True, False)),
        Dimension("fixed", "int", 3, 3),
    ],
}


class OptimizerConformance:
    """Tests of one optimizer; pytest runs a subclass that defines `make`.

    Spaces that the optimizer refuses in `start` can be taken out by `spaces`.
    """

    spaces: tuple[str, ...] = tuple(_SPACES)

    def make(self, **options: Any) -> Optimizer:
        """Make the optimizer under test with these options."""
        raise NotImplementedError

    def test_the_same_seed_asks_for_the_same_points(self) -> None:
        """A study resumes by asking again."""
        for space in self._dimensions():
            assert _asks(self._started(space), 3) == _asks(self._started(space), 3)

    def test_retelling_a_search_resumes_it_bit_for_bit(self) -> None:
        """Failed points and all."""
        for space in self._dimensions():
            first, history = self._started(space), []
            for generation in range(3):
                points = first.ask()
                fitness = [None if i == generation else _score(p) for i, p in enumerate(points)]
                first.tell(points, fitness)
                history.append((points, fitness))
            second = self._started(space)
            for points, fitness in history:
                assert second.ask() == points
                second.tell(points, fitness)
            assert first.ask() == second.ask()

    def test_every_point_lies_in_the_space(self) -> None:
        """Values of the kind and range of each dimension."""
        for space in self._dimensions():
            for points in _asks(self._started(space), 3):
                for point in points:
                    assert len(point) == len(space)
                    for dimension, value in zip(space, point, strict=True):
                        assert dimension.contains(value), f"{dimension.name}: {value!r}"

    def test_a_generation_that_failed_whole_does_not_end_the_search(self) -> None:
        """It ranks nothing, and the next one is asked for."""
        for space in self._dimensions():
            optimizer = self._started(space)
            points = optimizer.ask()
            optimizer.tell(points, [None] * len(points))
            assert optimizer.ask()

    def test_no_global_generator_is_touched(self) -> None:
        """Everything follows from the seed."""
        before = random.getstate(), str(np.random.get_state())  # noqa: NPY002
        for space in self._dimensions():
            _asks(self._started(space), 2)
        assert before == (random.getstate(), str(np.random.get_state()))  # noqa: NPY002

    def test_a_population_that_is_asked_for_is_had(self) -> None:
        """By `start`, as `search.population` has it."""
        size = max(6, self.make().smallest_population)
        for space in self._dimensions():
            optimizer = self.make()
            optimizer.start(space, seed=1, population=size)
            assert len(optimizer.ask()) == size

    def _dimensions(self) -> list[list[Dimension]]:
        return [_SPACES[name] for name in self.spaces]

    def _started(self, space: list[Dimension]) -> Optimizer:
        optimizer = self.make()
        optimizer.start(space, seed=1)
        return optimizer


def _score(point: Point) -> float:
    """A fitness of any point: numbers near 0.4 and early words are good."""
    return -sum(len(value) if isinstance(value, str) else (value - 0.4) ** 2 for value in point)


def _asks(optimizer: Optimizer, generations: int) -> list[list[Point]]:
    asked = []
    for _ in range(generations):
        points = optimizer.ask()
        asked.append(points)
        optimizer.tell(points, [_score(point) for point in points])
    return asked
