"""Held-out functions: COCO's bbob and bbob-mixint, 240 noisy evaluations, about a minute.

What is told is a lead over the start on the same items, as in a study: 0 for the start itself, and
else with noise of half the spread of a first generation. What counts is the exact value of the
mean, the answer. Hansen 2021,
https://arxiv.org/abs/1603.08785; functions: https://numbbo.github.io/coco/testsuites/bbob
"""

import numpy as np
import pytest

from evomerge.optimizers import create
from evomerge.recipe.space.dimension import Dimension

pytestmark = pytest.mark.coco
EVALUATIONS, NOISE = 240, 0.5
SUITES = [(suite, dimensions) for suite in ("bbob", "bbob-mixint") for dimensions in (20, 40)]


def problems(suite, dimensions):
    import cocoex

    return cocoex.Suite(suite, "instances: 1", f"dimensions: {dimensions}")


def space_of(problem):
    """COCO's mixed problems have their integers first."""
    bounds = zip(problem.lower_bounds, problem.upper_bounds, strict=True)
    whole = problem.number_of_integer_variables
    return [
        Dimension(f"n{i}", "int", int(low), int(high))
        if i < whole
        else Dimension(f"x{i}", low=float(low), high=float(high))
        for i, (low, high) in enumerate(bounds)
    ]


def spread(problem, space):
    """The standard deviation of the values about the start, a first step away."""
    lows, highs = (np.array([getattr(d, side) for d in space], float) for side in ("low", "high"))
    draws = np.random.default_rng(0).standard_normal((40, len(space)))
    points = np.array([d.start for d in space], float) + 0.08 * (highs - lows) * draws
    points = np.clip(points, lows, highs)
    whole = problem.number_of_integer_variables
    points[:, :whole] = np.round(points[:, :whole])
    return float(np.std([problem(point) for point in points]))


def gain(problem, optimizer):
    """How much lower the function is at the end than at the start, in spreads."""
    space = space_of(problem)
    optimizer.start(space, seed=1)
    draws, unit = np.random.default_rng(7), spread(problem, space)
    start = problem(np.array([d.start for d in space], float))
    answer, best, spent = None, -np.inf, 0
    while spent + optimizer.population <= EVALUATIONS and not optimizer.stopped:
        points = optimizer.ask()
        leads = np.array([start - problem(np.array(point, float)) for point in points])
        leads += NOISE * unit * draws.standard_normal(len(points)) * (leads != 0)
        fitness = leads.tolist()
        optimizer.tell(points, fitness)
        spent += len(points)
        if max(fitness) > best:
            best, answer = max(fitness), points[int(np.argmax(fitness))]
    end = optimizer.mean or answer
    return (start - problem(np.array(end, float))) / unit


@pytest.mark.parametrize(("suite", "dimensions"), SUITES)
@pytest.mark.parametrize("name", ["catcma", "cmaes", "coarse_to_fine"])
def test_few_searches_end_worse_than_they_began_and_most_beat_chance(name, suite, dimensions):
    gains = np.array([gain(problem, create(name)) for problem in problems(suite, dimensions)])
    assert len(gains) == 24
    assert (gains < -0.05).sum() <= 1
    by_chance = [gain(problem, create("random")) for problem in problems(suite, dimensions)]
    assert (gains > by_chance).sum() >= 18
