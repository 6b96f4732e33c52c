"""Dimensions that are active only at some points, over every optimizer registered."""

import json
import math

import numpy as np
import pytest

from evomerge.core.errors import UserError
from evomerge.optimizers import CatCma, CmaEs, create
from evomerge.optimizers.coordinates import Coordinates
from evomerge.recipe.space.dimension import Dimension

METHODS = ("p", "q", "r")


def space(blocks=2, each=2, conditional=True):
    """Blocks of a method, a weight, and for each method parameters of its own."""
    dimensions = []
    for block in range(blocks):
        dimensions += [
            Dimension(f"{block}.method", "categorical", choices=METHODS),
            Dimension(f"{block}.weight"),
        ]
        for method in METHODS:
            needs = (((f"{block}.method", (method,)),),) if conditional else ()
            dimensions += [
                Dimension(f"{block}.{method}{k}", needs=needs, initial=0.4) for k in range(each)
            ]
    return dimensions


def loss(dimensions, point, target, worse):
    """Squared distances of the weights and of what the methods chosen have, and what they cost."""
    value = dict(zip([d.name for d in dimensions], point, strict=True))
    total = 0.0
    for name, number in value.items():
        block, rest = name.split(".")
        if rest == "method":
            total += worse[METHODS.index(number)]
        elif rest == "weight" or rest[0] == value[f"{block}.method"]:
            total += (number - target[name]) ** 2
    return total


def test_inactive_dimensions_are_at_their_start_and_a_replayed_search_goes_on_the_same(make):
    dimensions = space()
    coordinates = Coordinates(dimensions)
    target = {d.name: 0.6 for d in dimensions}
    first, history = make(), []
    first.start(dimensions, 3)
    for _ in range(4):
        points = first.ask()
        for point in points:
            value = dict(zip([d.name for d in dimensions], point, strict=True))
            for name, number in value.items():
                block, rest = name.split(".")
                if rest not in ("method", "weight") and rest[0] != value[f"{block}.method"]:
                    assert number == 0.4
            assert coordinates.at_start(point) == point
        fitness = [-loss(dimensions, p, target, (0.0, 0.1, 0.2)) for p in points]
        first.tell(points, fitness)
        history.append((points, fitness))
    assert len({point for points, _ in history for point in points}) > 10
    again = make()
    again.start(dimensions, 3)
    for points, fitness in json.loads(json.dumps(history)):
        assert again.ask() == [tuple(point) for point in points]
        again.tell([tuple(point) for point in points], fitness)
    assert again.ask() == first.ask()


@pytest.mark.slow
def test_it_converges_no_slower_for_knowing_what_is_inactive(make):
    # 200 points in 28 dimensions, the best found. "No slower": not above 1.15 times the loss
    # without the knowledge, over ten seeds. A Gaussian process takes a second a point by then.
    seeds, budget = (3, 60) if make().options.get("sampler") == "GPSampler" else (10, 200)
    losses_by_knowledge = {True: [], False: []}
    for seed in range(seeds):
        draw = np.random.default_rng(seed)
        target = {d.name: draw.uniform(0.2, 0.8) for d in space(each=4)}
        worse = draw.permutation([0.0, 0.1, 0.2])
        for conditional, losses in losses_by_knowledge.items():
            dimensions = space(each=4, conditional=conditional)
            optimizer = make()
            optimizer.start(dimensions, seed)
            spent, best = 0, math.inf
            while spent < budget and not optimizer.stopped:
                points = optimizer.ask()
                scored = [loss(dimensions, point, target, worse) for point in points]
                optimizer.tell(points, [-value for value in scored])
                spent, best = spent + len(points), min(best, *scored)
            losses.append(best)
    assert np.mean(losses_by_knowledge[True]) < 1.15 * np.mean(losses_by_knowledge[False])


@pytest.mark.parametrize("kind", [CatCma, CmaEs, lambda **o: CmaEs(diagonal=True, **o)])
@pytest.mark.parametrize("asleep", ["float", "int", "categorical"])
def test_the_distribution_keeps_what_was_active_in_no_good_point(kind, asleep):
    # method q is always the worst, so that what it needs teaches nothing, while x0 to x3 narrow
    needs = ((("method", ("q",)),),)
    dimensions = [
        Dimension("method", "categorical", choices=("p", "q")),
        *[Dimension(f"x{i}") for i in range(4)],
        {
            "float": Dimension("asleep", initial=0.4, needs=needs),
            "int": Dimension("asleep", "int", 0, 9, initial=4, needs=needs),
            "categorical": Dimension("asleep", "categorical", choices=(0, 1, 2), needs=needs),
        }[asleep],
    ]
    optimizer = kind(sigma=0.1, population=12)
    optimizer.start(dimensions, 0)
    before = drawn_by_q(optimizer)
    for _ in range(40):
        points = optimizer.ask()
        scores = [-sum((x - 0.6) ** 2 for x in p[1:5]) - 9 * (p[0] == "q") for p in points]
        optimizer.tell(points, scores)
    after = drawn_by_q(optimizer)
    assert after[:, 1:5].std(axis=0).max() < 0.4 * before[:, 1:5].std(axis=0).min()
    assert after[:, 5].std() == pytest.approx(before[:, 5].std(), rel=0.25)
    assert after[:, 5].mean() == pytest.approx(before[:, 5].mean(), abs=before[:, 5].std() / 3)


def drawn_by_q(optimizer, enough=150):
    """Points of method q; a generation in which all fail teaches nothing."""
    rows = []
    while len(rows) < enough:
        points = optimizer.ask()
        optimizer.tell(points, [None] * len(points))
        rows += [(0, *point[1:]) for point in points if point[0] == "q"]
    return np.array(rows, dtype=float)


@pytest.mark.parametrize("sampler", ["NSGAIISampler", "GPSampler", "TPESampler", "CmaEsSampler"])
def test_optuna_is_told_the_start_or_nothing_of_what_is_inactive(sampler, studies):
    # what it is told follows from the recipe alone, so what it learns does too
    told_all = sampler in ("NSGAIISampler", "GPSampler")
    dimensions = space(each=1)
    optimizer = create("optuna", sampler=sampler, population=8)
    optimizer.start(dimensions, 0)
    asleep, coordinates = 0, Coordinates(dimensions)
    for _ in range(2):
        points = optimizer.ask()
        optimizer.tell(points, [-sum((x - 0.7) ** 2 for x in p[1:5:3]) for p in points])
        for trial, point in zip(studies[0].trials[-8:], points, strict=True):
            inactive = coordinates.inactive([point])[0]
            for dimension, sleeps in zip(dimensions, inactive, strict=True):
                if sleeps:
                    asleep += 1
                    assert trial.params.get(dimension.name) == (0.4 if told_all else None)
                else:
                    assert dimension.name in trial.params
    assert asleep == 2 * 8 * 2 * 2


def test_optuna_s_cma_es_searches_what_is_always_active_alone(studies):
    # b has been active in every trial of the first generations, but need not be in the next
    dimensions = [
        *[Dimension(f"x{i}") for i in range(3)],
        Dimension("method", "categorical", choices=("p", "q")),
        Dimension("b", needs=((("method", ("p", "q")),),)),
    ]
    optimizer = create("optuna", sampler="CmaEsSampler", population=6)
    optimizer.start(dimensions, 0)
    for _ in range(12):
        points = optimizer.ask()
        optimizer.tell(points, [-sum((x - 0.8) ** 2 for x in p[:3]) for p in points])
    (study,) = studies
    searched = study.sampler.infer_relative_search_space(study, study.trials[-1])
    assert sorted(searched) == ["x0", "x1", "x2"]
    assert np.mean([point[:3] for point in points], axis=0) == pytest.approx([0.8] * 3, abs=0.1)


def test_a_distribution_that_is_told_nothing_of_conditions_does_move_what_has_no_effect():
    dimensions = [*[Dimension(f"x{i}") for i in range(4)], Dimension("idle", initial=0.3)]
    optimizer = CatCma(sigma=0.1, population=8)
    optimizer.start(dimensions, 0)
    for _ in range(40):
        points = optimizer.ask()
        optimizer.tell(points, [-sum((x - 0.6) ** 2 for x in p[:4]) for p in points])
    assert abs(optimizer.mean[4] - 0.3) > 0.02
    drawn = []
    for _ in range(50):
        points = optimizer.ask()
        optimizer.tell(points, [None] * len(points))  # which teaches nothing
        drawn += [point[4] for point in points]
    assert np.std(drawn) < 0.05


def test_rows_are_held_where_a_coordinate_is_inactive():
    dimensions = [
        Dimension("method", "categorical", choices=("p", "q")),
        Dimension("a", needs=((("method", ("p",)),),)),
        Dimension("b", needs=((("method", ("q",)),),)),
    ]
    units, substitute = np.array([[0.2, 0.5, 0.6], [0.8, 0.5, 0.6]]), np.full((2, 3), 0.9)
    expected = [[0.2, 0.5, 0.9], [0.8, 0.9, 0.6]]
    filled = Coordinates(dimensions).fill_inactive(units, substitute)
    assert filled.tolist() == expected
    assert Coordinates(dimensions).fill_inactive(units[0], substitute[0]).tolist() == expected[0]


def test_needing_a_dimension_that_is_not_there_is_refused():
    with pytest.raises(UserError, match=r"dimension b: it needs .*'methods'.*did you mean"):
        create("random").start(
            [
                Dimension("method", "categorical", choices=("p", "q")),
                Dimension("b", needs=((("methods", ("p",)),),)),
            ],
            0,
        )
