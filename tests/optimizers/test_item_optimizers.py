"""Optimizers that learn from what was scored on each item, and what else is theirs alone."""

import numpy as np
import pytest

from evomerge.optimizers import create
from evomerge.optimizers.evolution.genetic import (
    Member,
    attraction,
    depths,
    profiles,
    shared_fitness,
    shares,
)
from evomerge.recipe.space.dimension import Dimension

SPACE = [Dimension(f"x{i}") for i in range(6)]


def specialists(point):
    """Two tasks: one is solved by the first half of the coordinates, the other by the second."""
    x = np.array(point)
    first, second = 1 - np.abs(x[:3] - 0.9), 1 - np.abs(x[3:] - 0.1)
    return {"left": dict(enumerate(first.tolist())), "right": dict(enumerate(second.tolist()))}


def fitness(scores):
    return float(np.mean([np.mean(list(items.values())) for items in scores.values()]))


def search(optimizer, generations, redraw=False):
    optimizer.start(SPACE, 0)
    best = 0.0
    for generation in range(generations):
        points = optimizer.ask()
        scores = [specialists(point) for point in points]
        values = [fitness(of_point) for of_point in scores]
        if redraw:  # another third of the items in each generation
            scores = [
                {
                    task: {10 * generation + i: s for i, s in items.items()}
                    for task, items in of_point.items()
                }
                for of_point in scores
            ]
        optimizer.tell(points, values, scores)
        best = max(best, *values)
    return best


def scored(*rows):
    """Members of an archive by their scores on items 0, 1, 2 of one task."""
    return [Member(np.zeros(2), sum(row), {"t": dict(enumerate(row))}) for row in rows]


def test_a_mate_is_one_that_solves_what_the_parent_fails():
    # a solves items 0 and 1, b nothing more, c item 2: g(a, b) = 0, g(a, c) = 1
    attractions = attraction(profiles(scored((1, 1, 0), (1, 0, 0), (0, 0, 1))), 0)
    assert attractions == pytest.approx([0, 0, 1], abs=1e-5)


def test_sharing_prefers_the_only_one_that_solves_an_item():
    # By fitness alone the first two would be the best. Items are solved by 3, 2 and 1 of them, so
    # shared fitness is 1/3 + 1/2 for each of those two, and 1 for the specialist.
    worth = shared_fitness(profiles(scored((1, 1, 0), (1, 1, 0), (1, 0, 0), (0, 0, 1))))
    assert worth == pytest.approx([5 / 6, 5 / 6, 1 / 3, 1], abs=1e-5)


def test_a_specialist_survives_among_better_ones_and_is_bred_from():
    # one item is solved by large x alone, which costs more than it earns; by fitness it would go
    def scores(point):
        x = point[0]
        return {"t": {0: float(x < 0.7), 1: float(x < 0.7), 2: float(x >= 0.7)}}

    optimizer = create("genetic", sigma=0.3, population=6)
    optimizer.start(SPACE[:2], 0)
    large = 0
    for _ in range(20):
        points = optimizer.ask()
        optimizer.tell(points, [fitness(scores(p)) for p in points], [scores(p) for p in points])
        large = sum(point[0] >= 0.7 for point in points)
    assert large >= 1


def test_items_that_not_all_have_seen_are_compared_by_the_tasks_means():
    both = [
        Member(np.zeros(1), 0, {"t": {0: 1.0, 1: 0.0}}),
        Member(np.zeros(1), 0, {"t": {1: 0.5}}),
    ]
    apart = [Member(np.zeros(1), 0, {"t": {0: 1.0}}), Member(np.zeros(1), 0, {"t": {1: 0.5}})]
    assert profiles(both).tolist() == [[0.0], [0.5]]
    assert profiles(apart).tolist() == [[1.0], [0.5]]
    assert profiles([*both, Member(np.zeros(1), 0, None)]) is None
    assert profiles([Member(np.zeros(1), 0, {"t": {0: -2.0}})] * 2).min() == 0  # a loss


def test_a_child_takes_one_parent_s_mixture_above_the_cut_and_the_other_s_below():
    space = [Dimension(f"weight[{i}]", gradient="weight", knot=i) for i in range(5)]
    assert shares(depths(space), 0.6, 0.9) == pytest.approx([0.9, 0.9, 0.9, 0.1, 0.1])


def test_a_block_acts_in_the_middle_of_its_layers_and_a_knot_at_its_share_of_the_depth():
    dimensions = [
        Dimension("blocks[0:2].models[a].weight", model="a", layers=(0, 2)),
        Dimension("blocks[4:6,attention].density", layers=(4, 6)),
        Dimension("weight[0]", gradient="weight", knot=0),
        Dimension("weight[2]", gradient="weight", knot=2),
    ]
    assert depths(dimensions).tolist() == pytest.approx([1 / 6, 5 / 6, 0, 1])


def test_both_learn_with_items_kept_and_items_redrawn():
    # random search with as many points reaches .75; the best there is is 1
    for name in ("genetic", "map_elites"):
        assert search(create(name, population=10), 20) > 0.85
        assert search(create(name, population=10), 20, redraw=True) > 0.85


def test_map_elites_keeps_the_best_of_each_cell_for_each_task():
    optimizer = create("map_elites", population=10, bins=4)
    search(optimizer, 10)
    archives = optimizer._archives
    assert set(archives) == {"left", "right"}
    for task, other in (("left", "right"), ("right", "left")):
        assert len(archives[task]) >= 2
        for cell, elite in archives[task].items():
            point, quality = optimizer._coordinates.decode(elite.units), elite.quality
            scores = {t: np.mean(list(items.values())) for t, items in specialists(point).items()}
            assert abs(scores[task] - quality) < 1e-5
            assert cell == (min(int(scores[other] * 4), 3),)


def test_the_diagonal_cma_learns_a_stretched_valley_in_many_dimensions():
    # curvatures 1 to 10^4 along the axes, 100 dimensions, 3,400 points
    curvature = 1e4 ** np.linspace(0, 1, 100)
    space = [Dimension(f"x{i}") for i in range(100)]
    losses = {}
    for name in ("sepcma", "cmaes"):
        optimizer = create(name, sigma=0.2)
        optimizer.start(space, 0, initial=(0.6,) * 100)
        for _ in range(200):
            points = optimizer.ask()
            losses_now = [float(curvature @ (np.array(p) - 0.5) ** 2) for p in points]
            optimizer.tell(points, [-value for value in losses_now])
        losses[name] = min(losses_now)
    assert losses["sepcma"] < losses["cmaes"] / 2


def test_sobol_points_fill_the_space_evenly():
    # a (0, m, s)-net property: of the first 2^k points each half of each coordinate holds half
    optimizer = create("sobol", population=64)
    optimizer.start(SPACE, 0)
    points = np.array(optimizer.ask())  # the initial point and the first 63 of the sequence
    assert (np.abs((points < 0.5).sum(axis=0) - 32) <= 1).all()
    assert (np.abs((points < 0.25).sum(axis=0) - 16) <= 1).all()


def test_the_swarm_s_worst_point_pushes_away_if_told_to():
    far, near = create("swarm", repel=0.3), create("swarm")
    space = [Dimension("x")]
    asked = {}
    for key, optimizer in (("far", far), ("near", near)):
        optimizer.start(space, 0)
        for _ in range(2):
            points = optimizer.ask()
            optimizer.tell(points, [x for (x,) in points])  # the worst is at the left
        asked[key] = np.mean(optimizer.ask())
    assert asked["far"] > asked["near"]
