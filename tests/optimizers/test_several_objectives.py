"""Optimizers that take vectors find a front; the others say that they do not."""

import math

import numpy as np
import pytest

from evomerge.core.errors import UserError
from evomerge.optimizers import create, names
from evomerge.recipe.space.dimension import Dimension

SPACE = [Dimension(f"x{i}") for i in range(4)]


def two(point):
    """Schaffer's problem: the front is x0 in [.25, .75] with the rest at .5."""
    x = np.array(point)
    return [-float(((x - [o, 0.5, 0.5, 0.5]) ** 2).sum()) for o in (0.25, 0.75)]


def asked(optimizer, generations, seed=0):
    optimizer.start(SPACE, seed, population=10, objectives=2)
    asked = []
    for generation in range(generations):
        points = optimizer.ask()
        fitness = [None if i == generation else two(point) for i, point in enumerate(points)]
        asked += points
        optimizer.tell(points, fitness)
    return asked


@pytest.mark.parametrize("name", ["nsga2", "tpe"])
def test_the_front_is_approached_from_both_sides(name):
    late = asked(create(name), 12)[-40:]
    off_front = np.abs(np.array(late)[:, 1:] - 0.5).mean()
    start = np.abs(np.array(asked(create("random"), 4))[:, 1:] - 0.5).mean()  # 1/4 on average
    assert off_front < 0.7 * start


@pytest.mark.parametrize("name", ["nsga2", "tpe", "random"])
def test_retelling_vectors_resumes(name):
    assert asked(create(name), 4) == asked(create(name), 4)


def test_those_that_take_one_number_say_so():
    for name in names():
        optimizer = create(name)
        if not optimizer.takes_vectors:
            with pytest.raises(UserError, match="searches for one number"):
                optimizer.start(SPACE, 0, objectives=2)


def test_a_vector_of_another_length_or_with_a_hole_is_refused():
    optimizer = create("nsga2", population=2)
    optimizer.start(SPACE, 0, objectives=2)
    points = optimizer.ask()
    for wrong in ([1.0], [1.0, 2.0, 3.0], 1.0):
        with pytest.raises(ValueError, match="expected 2 numbers for each point"):
            optimizer.tell(points, [wrong, [0.0, 0.0]])
    with pytest.raises(ValueError, match="None for a failure"):
        optimizer.tell(points, [[0.0, math.nan], [0.0, 0.0]])
