"""What every optimizer promises, run over everything registered.

Run as a program, it prints what each of them asks (for the test in another process).
"""

import copy
import functools
import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evomerge.core.errors import UserError
from evomerge.optimizers import create, names
from evomerge.recipe.space.dimension import Dimension

# Everything that `create` knows by name, and more of Optuna's samplers through its one door.
OPTIMIZERS = {
    **{name: (name, {}) for name in names() if create(name).any_space},
    "optuna": ("optuna", {"sampler": "NSGAIISampler"}),
    "optuna-cmaes": ("optuna", {"sampler": "CmaEsSampler"}),
    "optuna-qmc": ("optuna", {"sampler": "QMCSampler"}),
}
# The whole suite takes seconds for each; by default Optuna is represented by two samplers.
BY_HAND = ("coarse_to_fine", "gp", "nsga2", "optuna-cmaes", "optuna-qmc", "sepcma")

SPACES = {
    "floats": [Dimension("a"), Dimension("b", low=-3.0, high=5.0), Dimension("c", initial=0.0)],
    "mixed": [
        Dimension("weight", low=-1.0, high=2.0),
        Dimension("rate", low=1e-4, high=1.0, log=True),
        Dimension("layers", "int", 1, 8),
        Dimension("width", "int", 1, 1024, log=True),
        Dimension("method", "categorical", choices=("ties", "dare_ties", "slerp")),
        Dimension("rescale", "categorical", choices=(True, False)),
        Dimension("like_numbers", "categorical", choices=(1, True, 0.5, 2.0)),
        Dimension("switch", "int", 0, 1),
        Dimension("fixed", "int", 3, 3),
    ],
    "one float": [Dimension("a", low=2.0, high=3.0)],
    "one choice": [Dimension("a", "categorical", choices=("x", "y", "z"))],
    "one integer": [Dimension("a", "int", -2, 2)],
    "forty": [Dimension(f"x{i}", low=0.0, high=1.5) for i in range(40)],
}


EVERY = [pytest.param(key, marks=pytest.mark.slow) if key in BY_HAND else key for key in OPTIMIZERS]


@pytest.fixture(params=EVERY)
def make(request):
    """A function that makes the optimizer under test."""
    name, options = OPTIMIZERS[request.param]
    return lambda **more: create(name, **options, **more)


@pytest.fixture(params=SPACES)
def space(request):
    return SPACES[request.param]


def score(point):
    """Some deterministic fitness of any point: numbers near 0.4 and early words are good."""
    return -sum(
        (value - 0.4) ** 2 if isinstance(value, float | int) else len(value) for value in point
    )


def asks(optimizer, generations, fitness=score):
    """Ask and tell; return every generation asked."""
    asked = []
    for _ in range(generations):
        points = optimizer.ask()
        asked.append(points)
        optimizer.tell(points, [fitness(point) for point in points])
    return asked


def started(optimizer, space, seed=1, **options):
    optimizer.start(space, seed, **options)
    return optimizer


def test_the_same_seed_asks_for_the_same_points(make, space):
    assert asks(started(make(), space), 2) == asks(started(make(), space), 2)


def test_another_seed_asks_for_other_points(make):
    space = SPACES["floats"]
    assert asks(started(make(), space, seed=1), 2) != asks(started(make(), space, seed=2), 2)


def test_the_constructor_s_seed_is_used_when_start_is_given_none(make):
    space = SPACES["floats"]
    by_default = started(make(seed=5), space, seed=None)
    assert asks(by_default, 2) == asks(started(make(), space, seed=5), 2)


def test_retelling_a_search_resumes_it_bit_for_bit(make, space):
    first = started(make(), space)
    history = []
    for generation in range(3):
        points = first.ask()
        fitness = [None if i == generation else score(p) for i, p in enumerate(points)]
        first.tell(points, fitness)
        history.append((points, fitness))
    expected = repr(first.ask())

    resumed = started(make(), space)
    for points, fitness in json.loads(json.dumps(history)):  # through a journal and back
        assert resumed.ask() == [tuple(point) for point in points]
        resumed.tell([tuple(point) for point in points], fitness)
    assert repr(resumed.ask()) == expected
    assert resumed.population == first.population


def test_another_process_with_other_string_hashes_and_linear_algebra_asks_for_the_same_points():
    # OpenBLAS (x86) then computes as on an old processor: the last bits of products differ.
    other = {"PYTHONHASHSEED": "12345", "OPENBLAS_CORETYPE": "Sandybridge"}
    environment = {**os.environ, **other}
    command = [sys.executable, "-W", "error", __file__]
    printed = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, cwd=Path.cwd()
    ).stdout
    elsewhere = json.loads(printed)
    assert elsewhere["hash"] != hash("evomerge")
    assert elsewhere["asked"] == asked_by_all()


def test_values_have_their_dimension_s_type_and_stay_in_range(make, space):
    types = {"float": float, "int": int}
    for points in asks(started(make(), space), 3):
        for point in points:
            assert len(point) == len(space)
            for dimension, value in zip(space, point, strict=True):
                assert dimension.contains(value), (dimension, value)
                if dimension.kind in types:
                    assert type(value) is types[dimension.kind]


def test_bounds_hold_when_the_best_points_lie_outside_them(make):
    space = SPACES["floats"]
    outward = lambda point: sum(point)  # noqa: E731
    asked = asks(started(make(), space), 15, outward)
    assert all(d.contains(v) for points in asked for p in points for d, v in zip(space, p))  # noqa: B905


def test_a_small_range_far_from_zero_keeps_its_digits(make):
    space = [Dimension("a", low=1000.0, high=1000.001), Dimension("b", low=1e-9, high=2e-9)]
    # nothing to converge on, or a model of the fitness would ask for one corner again and again
    chance = lambda point: math.sin(1e12 * point[0] + 1e18 * point[1])  # noqa: E731
    points = [point for points in asks(started(make(), space), 5, chance) for point in points]
    assert all(d.contains(v) for p in points for d, v in zip(space, p, strict=True))
    assert len({point[0] for point in points}) > len(points) // 2
    assert len({point[1] for point in points}) > len(points) // 2


def test_it_starts_at_the_initial_point(make, space):
    last = tuple(
        dimension.choices[-1]
        if dimension.kind == "categorical"
        else type(dimension.start)(dimension.high)
        for dimension in space
    )
    for initial in (last, tuple(dimension.start for dimension in space)):
        optimizer = started(make(), space, initial=initial)
        centre = optimizer.mean or optimizer.ask()[0]
        assert repr(centre) == repr(initial)


def test_without_an_initial_point_it_starts_where_the_dimensions_say(make):
    optimizer = started(make(), SPACES["floats"])
    assert (optimizer.mean or optimizer.ask()[0]) == (0.5, 1.0, 0.0)


def test_the_mean_is_a_feasible_point_or_none(make, space):
    optimizer = started(make(), space)
    for _ in range(3):
        asks(optimizer, 1)
        mean = optimizer.mean
        assert mean is None or all(d.contains(v) for d, v in zip(space, mean, strict=True))


def test_the_default_population_follows_hansen(make):
    # 4 + floor(3 ln d), by hand: d=1: 4; d=3: 4 + 3; d=40: 4 + 11
    for name, expected in {"one float": 4, "floats": 7, "forty": 15}.items():
        optimizer = started(make(), SPACES[name])
        assert optimizer.population == expected
        assert len(optimizer.ask()) == expected


def test_the_population_can_be_overridden(make):
    space = SPACES["floats"]
    assert len(started(make(population=12), space).ask()) == 12
    assert len(started(make(population=12), space, population=9).ask()) == 9


def test_the_global_generators_are_neither_used_nor_heeded(make, space):
    undisturbed = asks(started(make(), space), 2)
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2]  # noqa: NPY002
    assert asks(started(make(), space), 2) == undisturbed
    after = random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2]  # noqa: NPY002
    assert before == after

    optimizer, disturbed = started(make(), space), []
    for generation in range(2):
        random.seed(generation)
        np.random.seed(generation)  # noqa: NPY002
        disturbed += asks(optimizer, 1)
    assert disturbed == undisturbed


def test_arguments_are_left_as_they_were_found(make, space):
    dimensions = list(space)
    optimizer = started(make(), dimensions)
    points = optimizer.ask()
    fitness = [score(point) for point in points]
    fitness[0] = None
    points_before, fitness_before = copy.deepcopy(points), list(fitness)
    optimizer.tell(points, fitness)
    assert dimensions == list(space)
    assert points == points_before
    assert fitness == fitness_before


def test_changing_the_list_that_was_asked_changes_nothing(make):
    untouched, touched = started(make(), SPACES["floats"]), started(make(), SPACES["floats"])
    asks(untouched, 1)
    points = touched.ask()
    copy = list(points)
    points.clear()
    touched.tell(copy, [score(point) for point in copy])
    assert touched.ask() == untouched.ask()


def test_flat_fitness_for_thirty_generations_neither_stops_nor_crashes(make, space):
    optimizer = started(make(), space, population=4)
    asked = asks(optimizer, 30 if len(space) < 40 else 5, fitness=lambda _: 0.25)
    assert optimizer.stopped is None
    if any(dimension.kind == "float" for dimension in space):
        assert asked[-1] != asked[-2]


def test_a_generation_in_which_all_failed_leaves_the_search_going(make, space):
    optimizer = started(make(), space)
    for _ in range(3):
        before = optimizer.mean
        points = optimizer.ask()
        optimizer.tell(points, [None] * len(points))
        assert optimizer.mean == before
    asks(optimizer, 2)
    assert optimizer.stopped is None


def test_a_region_that_always_fails_is_avoided(make):
    # Nothing works at x > 0.6, half of the range; elsewhere x does not matter. So only what an
    # optimizer makes of failures can keep it away.
    space = [Dimension("x", low=0.2), Dimension("y"), Dimension("z")]
    shares = []
    for seed in range(3):
        optimizer = started(make(), space, seed=seed, initial=(0.6, 0.5, 0.5))
        late = []
        for generation in range(20):
            points = optimizer.ask()
            optimizer.tell(points, [None if x > 0.6 else -((y - 0.3) ** 2) for x, y, _ in points])
            late += points if generation >= 10 else []
        shares.append(np.mean([point[0] > 0.6 for point in late]))
    assert np.mean(shares) < 0.3 if optimizer.adapts else 0.4 < np.mean(shares) < 0.6


@pytest.mark.parametrize(
    ("condition", "noise"),
    [(1.0, 0.0), (1e4, 0.0), (1.0, 0.002)],
    ids=["sphere", "ellipsoid", "noisy"],
)
def test_those_that_adapt_beat_random_search_fourfold(make, condition, noise):
    # 150 points in ten dimensions. The losses compared are exact; what is told may be noisy.
    loss = median_loss(make, condition, noise)
    at_random = random_loss(condition, noise)
    if make().adapts:
        assert loss < at_random / 4
    else:
        assert at_random / 4 < loss < at_random * 4


@functools.cache
def random_loss(condition, noise):
    return median_loss(lambda: create("random"), condition, noise)


def median_loss(make, condition, noise, seeds=2, budget=150):
    optimum = np.linspace(0.3, 0.7, 10)
    curvature = condition ** np.linspace(0, 1, 10)
    losses = []
    for seed in range(seeds):
        optimizer = started(make(), [Dimension(f"x{i}") for i in range(10)], seed=seed)
        draws = np.random.default_rng(seed)
        best = math.inf
        spent = 0
        while spent < budget:
            points = optimizer.ask()
            exact = [float(curvature @ (np.array(point) - optimum) ** 2) for point in points]
            scale = noise * curvature.mean()
            optimizer.tell(points, [-value + scale * draws.standard_normal() for value in exact])
            spent += len(points)
            best = min(best, *exact[1:])  # not the initial point, which is a good one
        losses.append(best)
    return float(np.median(losses))


def test_asking_twice_telling_first_and_telling_strangers_are_errors(make):
    space = SPACES["floats"]
    with pytest.raises(RuntimeError, match=r"before start\(\)"):
        make().ask()
    optimizer = started(make(), space)
    with pytest.raises(RuntimeError, match="nothing was asked"):
        optimizer.tell([], [])
    points = optimizer.ask()
    fitness = [0.0] * len(points)
    with pytest.raises(RuntimeError, match="called twice"):
        optimizer.ask()
    with pytest.raises(ValueError, match="point 1 was not asked"):
        optimizer.tell([points[0], (9.0, 9.0, 9.0), *points[2:]], fitness)
    with pytest.raises(ValueError, match=r"expected 7 points .* got 6 points"):
        optimizer.tell(points[1:], fitness[1:])
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match=r"fitness 2 is .*None for a failure"):
            optimizer.tell(points, [0.0, 0.0, bad, *fitness[3:]])
    optimizer.tell(points, fitness)  # none of the refused calls has done anything


def test_a_space_that_cannot_be_searched_is_refused_in_one_line(make):
    optimizer = make()
    same = [Dimension("a"), Dimension("a")]
    for space, words in [
        ([], "at least one dimension"),
        ([Dimension("a", "int", 3, 3)], "at least one dimension"),
        ([Dimension("a", "int", 0.2, 0.8)], "dimension a: there is no integer"),
        ([Dimension("a", high=math.inf)], "dimension a: expected finite bounds"),
        (same, "got twice: a"),
    ]:
        with pytest.raises(UserError, match=words) as caught:
            optimizer.start(space, 0)
        assert "\n" not in str(caught.value)
    space = [Dimension("a"), Dimension("b", "categorical", choices=("x", "y"))]
    with pytest.raises(UserError, match=r"dimension b: expected one of \['x', 'y'\].* got 'z'"):
        optimizer.start(space, 0, initial=(0.5, "z"))
    with pytest.raises(UserError, match="expected 2 values"):
        optimizer.start(space, 0, initial=(0.5,))
    with pytest.raises(UserError, match="search seed: expected an integer >= 0, but got -1"):
        optimizer.start(space, -1)
    with pytest.raises(UserError, match="search population"):
        optimizer.start(space, 0, population=0)
    with pytest.raises(UserError, match="search population"):
        optimizer.start(space, 0, population="many")
    with pytest.raises(UserError, match=r"search population .* and <= 100,000, but got 1000000000"):
        optimizer.start(space, 0, population=10**30)


def test_starting_again_forgets_the_last_search(make):
    optimizer = started(make(), SPACES["mixed"])
    asks(optimizer, 2)
    optimizer.ask()
    again = asks(started(optimizer, SPACES["floats"]), 2)
    assert again == asks(started(make(), SPACES["floats"]), 2)


def asked_by_all():
    """What every optimizer asks for in a small and in a large space, as JSON keeps it."""
    asked = {
        key: [
            asks(started(create(name, **options), SPACES["mixed"]), 3 if key not in BY_HAND else 1),
            asks(started(create(name, **options), SPACES["forty"]), 2 if key not in BY_HAND else 1),
        ]
        for key, (name, options) in OPTIMIZERS.items()
    }
    return json.loads(json.dumps(asked))


if __name__ == "__main__":
    print(json.dumps({"hash": hash("evomerge"), "asked": asked_by_all()}))
