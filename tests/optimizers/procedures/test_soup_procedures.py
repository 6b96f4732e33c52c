"""Each procedure guarantees what its paper guarantees."""

import math

import numpy as np
import pytest

from evomerge.core.errors import UserError
from evomerge.optimizers import create
from evomerge.recipe.space.dimension import Dimension

WEIGHTS = [Dimension(f"models[{name}].weight") for name in "abcd"]
MONOTONE = {
    "greedy_soup, ge": ("greedy_soup", {}),
    "greedy_soup, gt": ("greedy_soup", {"accept": "gt"}),
    "lottery_pools": ("lottery_pools", {}),
    "coordinate_grid": ("coordinate_grid", {}),
    "simplex_grid": ("simplex_grid", {"steps": 3}),
}


def follow(optimizer, fitness, dimensions=WEIGHTS, trials=10**4):
    """Run a procedure to its end; return every (point, fitness) in the order asked."""
    optimizer.start(dimensions, 0)
    history = []
    while not optimizer.stopped and len(history) + optimizer.population <= trials:
        points = optimizer.ask()
        values = [fitness(point) for point in points]
        history += zip(points, values, strict=True)
        optimizer.tell(points, values)
    return history


def rugged(seed):
    """A fitness with nothing to hold on to: another number for every point."""
    return lambda point: float(
        np.random.default_rng([seed, *map(int, np.multiply(point, 1e6))]).random()
    )


@pytest.mark.parametrize("key", MONOTONE)
@pytest.mark.parametrize("seed", range(5))
def test_the_result_is_never_worse_than_the_best_model_alone(key, seed):
    name, options = MONOTONE[key]
    optimizer, fitness = create(name, **options), rugged(seed)
    history = follow(optimizer, fitness)
    alone = [fitness(tuple(row)) for row in np.eye(4)]
    assert [point for point, _ in history[:4]] == [tuple(row) for row in np.eye(4)]
    assert fitness(optimizer.mean) >= max(alone)
    assert fitness(optimizer.mean) == optimizer.fitness


@pytest.mark.parametrize("key", MONOTONE)
def test_every_point_lies_on_the_simplex(key):
    name, options = MONOTONE[key]
    for point, _ in follow(create(name, **options), rugged(0)):
        assert min(point) >= 0
        assert sum(point) == pytest.approx(1, abs=3e-6)


@pytest.mark.parametrize("key", MONOTONE)
def test_retelling_a_procedure_resumes_it(key):
    name, options = MONOTONE[key]
    history = follow(create(name, **options), rugged(1))
    assert follow(create(name, **options), rugged(1)) == history
    first, resumed = create(name, **options), create(name, **options)
    follow(first, rugged(1), trials=len(history) - 1)
    follow(resumed, rugged(1), trials=len(history) - 1)
    assert first.ask() == resumed.ask()


@pytest.mark.parametrize("key", MONOTONE)
def test_a_model_that_fails_takes_no_part(key):
    name, options = MONOTONE[key]
    optimizer = create(name, **options)
    follow(optimizer, lambda point: None if point[0] else point[2])
    assert optimizer.mean[0] == 0
    assert optimizer.mean == (0, 0, 1, 0)


@pytest.mark.parametrize("key", MONOTONE)
def test_when_all_fail_there_is_no_result_and_it_ends(key):
    name, options = MONOTONE[key]
    optimizer = create(name, **options)
    follow(optimizer, lambda _: None)
    assert optimizer.mean is None
    assert optimizer.stopped == "the procedure is complete"


def test_greedy_soup_by_hand():
    # alone: a .4, b .7, c .5, d .1; so b, then +c, +a, +d. b+c is better, a leaves it as good,
    # d makes it worse
    values = {
        (1, 0, 0, 0): 0.4, (0, 1, 0, 0): 0.7, (0, 0, 1, 0): 0.5, (0, 0, 0, 1): 0.1,
        (0, 1, 1, 0): 0.8, (1, 1, 1, 0): 0.8, (1, 1, 1, 1): 0.3, (0, 1, 1, 1): 0.3,
    }  # fmt: skip
    fitness = lambda point: values[tuple(int(w > 0) for w in point)]  # noqa: E731
    with_ties, strict = create("greedy_soup", accept="ge"), create("greedy_soup", accept="gt")
    assert len(follow(with_ties, fitness)) == 4 + 3
    assert with_ties.mean == (0.333333, 0.333333, 0.333333, 0)
    follow(strict, fitness)
    assert strict.mean == (0, 0.5, 0.5, 0)


def test_greedy_soup_of_diwa_ends_at_the_uniform_average_where_diversity_always_helps():
    # Rame 2022, eq. 5: with equal models that err independently, error falls as 1/M
    optimizer = create("greedy_soup")
    follow(optimizer, lambda point: -float(np.square(point).sum()))
    assert optimizer.mean == (0.25, 0.25, 0.25, 0.25)


def test_lottery_pools_with_the_right_grid_is_greedy_soup():
    # with m members, a = 1/(m + 1) is the average with one more
    fitness = lambda point: -float(np.square(np.array(point) - [0.5, 0.5, 0, 0]).sum())  # noqa: E731
    soup, pools = create("greedy_soup", accept="gt"), create("lottery_pools", grid=[0.5])
    follow(soup, fitness, WEIGHTS[:2] + WEIGHTS[2:])
    follow(pools, fitness)
    assert soup.mean == pools.mean == (0.5, 0.5, 0, 0)


def test_lottery_pools_finds_the_ratio_of_two_on_its_grid():
    # best share of b .2 on a line; a is better alone, so it goes first
    optimizer = create("lottery_pools")
    history = follow(optimizer, lambda point: -abs(point[1] - 0.2) - point[2] - point[3])
    assert len(history) == 4 + 11 * 3
    assert optimizer.mean == (0.8, 0.2, 0, 0)


def test_coordinate_grid_follows_algorithm_1_by_hand():
    # a is best: lambda 1. Next b: lambda in {.2, .4, …, 1} x 1; the best share of b, 1/6, is
    # lambda .2. Then c: mean lambda so far is .6, so {.12, …, .6}; any c hurts.
    target = np.array([5 / 6, 1 / 6, 0, 0])
    fitness = lambda point: -float(np.abs(np.array(point) - target).sum())  # noqa: E731
    optimizer = create("coordinate_grid")
    history = follow(optimizer, fitness)
    assert len(history) == 4 + 5 * 3
    assert optimizer.mean == (0.833333, 0.166667, 0, 0)
    third = [point for point, _ in history[9:14]]
    assert third[0][2] == pytest.approx(0.12 / 1.32, abs=1e-6)
    assert third[4][2] == pytest.approx(0.6 / 1.8, abs=1e-6)


@pytest.mark.parametrize(("n", "steps"), [(2, 10), (3, 4), (4, 4)])
def test_simplex_grid_asks_every_point_once(n, steps):
    history = follow(create("simplex_grid", steps=steps), lambda point: point[0], WEIGHTS[:n])
    points = {point for point, _ in history}
    assert len(history) == len(points) == math.comb(n + steps - 1, steps)


@pytest.mark.parametrize("steps", [100, 10**30])
def test_a_grid_that_nobody_could_walk_is_refused(steps):
    with pytest.raises(UserError, match=r"SimplexGrid steps: .*100,000"):
        follow(create("simplex_grid", steps=steps), lambda point: point[0], WEIGHTS[:4])


def test_lorahub_recovers_a_planted_sparse_mixture():
    # twenty models of which three matter; the price of the others takes them to zero
    space = [Dimension(f"w{i}", low=-1.5, high=1.5) for i in range(20)]
    planted = np.zeros(20)
    planted[[2, 7, 11]] = 0.6, -0.4, 0.9
    optimizer = create("lorahub")
    optimizer.start(space, 0)
    assert optimizer.mean == (0.0,) * 20
    for _ in range(250):
        points = optimizer.ask()
        optimizer.tell(points, [-float(((np.array(p) - planted) ** 2).sum()) for p in points])
    # the price moves each weight by l1 / 2n = .00125 towards zero
    assert np.abs(np.array(optimizer.mean) - planted).max() < 0.01


def test_lorahub_pays_for_size_where_fitness_does_not_care():
    space = [Dimension("w", low=-1.5, high=1.5), Dimension("idle", low=-1.5, high=1.5)]
    optimizer = create("lorahub")
    optimizer.start(space, 1, initial=(1.0, 1.0))
    for _ in range(60):
        points = optimizer.ask()
        optimizer.tell(points, [-((w - 0.5) ** 2) for w, _ in points])
    assert abs(optimizer.mean[1]) < 1e-3


@pytest.mark.parametrize(
    "name", ["greedy_soup", "lottery_pools", "coordinate_grid", "simplex_grid"]
)
def test_a_space_without_a_weight_per_model_is_refused_in_one_line(name):
    for wrong in (
        Dimension("density", low=0.1, high=1.0),
        Dimension("m", "categorical", choices=("a", "b")),
    ):
        with pytest.raises(UserError, match=f"global_linear, but dimension {wrong.name}") as caught:
            create(name).start([*WEIGHTS, wrong])
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"leave search\.population out"):
        create(name).start(WEIGHTS, 0, population=8)


def test_the_grid_with_several_objectives_scores_all_of_it_and_has_no_one_result():
    """Rewarded soups: the whole grid of step .1 for two models, ends first, and its front."""
    optimizer = create("simplex_grid", steps=10)
    optimizer.start(WEIGHTS[:2], 0, objectives=2)
    asked = []
    while not optimizer.stopped:
        points = optimizer.ask()
        asked += points
        optimizer.tell(points, [None if point == (0.5, 0.5) else list(point) for point in points])
        assert optimizer.mean is None
    assert asked[:2] == [(1, 0), (0, 1)]
    assert sorted(x for x, _ in asked) == pytest.approx([i / 10 for i in range(11)])
    assert [x + y for x, y in asked] == pytest.approx([1.0] * 11)
