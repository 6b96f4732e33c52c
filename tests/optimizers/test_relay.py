"""A relay: each optimizer begins where the one before ended."""

from __future__ import annotations

import json

import pytest

from evomerge.core.errors import UserError
from evomerge.optimizers import Optimizer, create
from evomerge.optimizers.relay import Relay
from evomerge.recipe.space.dimension import Dimension, Point

SPACE = [
    Dimension("a", low=-5.0, high=5.0, initial=0.5),
    Dimension("method", "categorical", choices=("x", "y")),
]


def relay(first: str = "catcma", then: str = "adam", turns: tuple[int, int] = (8, 4)) -> Relay:
    made = Relay([(create(first), turns[0]), (create(then), turns[1])])
    made.start(SPACE, 3, population=4)
    return made


def score(point: Point) -> float:
    return -((float(point[0]) - 1.0) ** 2) + (point[1] == "y")


def step(optimizer: Optimizer) -> list[Point]:
    points = optimizer.ask()
    gradients = None
    if optimizer.learns_from_gradients:
        gradients = [[2 * (float(point[0]) - 1.0), 0.0] for point in points]
    optimizer.tell(points, [score(point) for point in points], gradients=gradients)
    return points


def test_the_second_starts_at_the_mean_of_the_first_and_keeps_its_choices() -> None:
    made, alone = relay(), create("catcma")
    alone.start(SPACE, 3, population=4)
    for _ in range(2):
        assert not made.learns_from_gradients
        assert step(made) == step(alone)
    assert made.learns_from_gradients
    assert made.population == 1
    assert made.loss == "answers"
    assert made.origin == alone.mean
    first, second = step(made)[0], step(made)[0]
    assert first == alone.mean
    assert second[1] == first[1]
    assert made.milestones[0] == alone.mean


def test_one_that_stops_hands_on_early_and_the_last_one_ends_the_search() -> None:
    made = Relay([(create("adam", steps=2), 100), (create("adam", steps=3), 100)])
    made.start(SPACE, 3)
    taken = 0
    while made.stopped is None:
        step(made)
        taken += 1
    assert taken == 5
    assert made.stopped == "3 steps"


def test_one_without_a_mean_hands_on_its_best_point() -> None:
    made = relay(first="random", turns=(4, 4))
    points = step(made)
    assert made.origin == max(points, key=score)


def test_retelling_it_resumes_it_bit_for_bit() -> None:
    first, again = relay(), relay()
    past = [step(first) for _ in range(4)]
    for points in json.loads(json.dumps(past)):
        assert step(again) == [tuple(point) for point in points]
    assert again.ask() == first.ask()
    assert (again.mean, again.milestones) == (first.mean, first.milestones)


def test_several_objectives_need_optimizers_that_all_take_them() -> None:
    made = Relay([(create("random"), 4), (create("adam"), 4)])
    with pytest.raises(UserError, match="searches for one number"):
        made.start(SPACE, 0, objectives=2)
