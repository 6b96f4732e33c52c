"""Optimizers that learn from what was scored on each item, and what else is theirs alone."""

import numpy as np
import pytest

from evomerge.optimizers import create
from evomerge.optimizers.evolution.genetic import Member, depths, profiles
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
        values = [fitness(some) for some in scores]
        if redraw:  # another third of the items in each generation
            scores = [
                {
                    task: {10 * generation + i: s for i, s in items.items()}
                    for task, items in some.items()
                }
                for some in scores
            ]
        optimizer.tell(points, values, scores)
        best = max(best, *values)
    return best


def test_a_mate_is_one_that_solves_what_the_parent_fails():
    # a solves items 1 and 2, b nothing more, c item 3: g(a, b) = 0, g(a, c) > 0
    def member(*scores):
        return Member(np.zeros(2), sum(scores), {"t": dict(enumerate(scores))})

    optimizer = create("genetic", population=3)
    optimizer.start(SPACE[:2], 0)
    optimizer._archive = [member(1, 1, 0), member(1, 0, 0), member(0, 0, 1)]
    for first, second in optimizer._parents() * 5:
        if first is optimizer._archive[0]:
            assert second is optimizer._archive[2]


def test_sharing_keeps_the_only_one_that_solves_an_item():
    # By fitness alone the first two of four would stay. Items are solved by 3, 2 and 1 of them, so
    # shared fitness is 1/3 + 1/2 for each of those two, and 1 for the specialist.
    optimizer = create("genetic", population=2)
    optimizer.start(SPACE[:2], 0)
    optimizer._children = np.array([[0.1, 0], [0.2, 0], [0.3, 0], [0.4, 0]])
    rows = [(1, 1, 0), (1, 1, 0), (1, 0, 0), (0, 0, 1)]
    optimizer._scores = [{"t": dict(enumerate(row))} for row in rows]
    optimizer._learn([0.67, 0.66, 0.33, 0.33])
    assert [member.units[0] for member in optimizer._archive] == [0.1, 0.4]


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
    space = [Dimension(f"weight[{i}]", gradient="weight", knot=i) for i in range(50)]
    optimizer = create("genetic", sigma=1e-9)
    optimizer.start(space, 3)
    child = optimizer._child(Member(np.zeros(50), 0, None), Member(np.ones(50), 0, None))
    cuts = np.flatnonzero(np.abs(np.diff(child)) > 1e-6)
    assert len(cuts) == 1
    above, below = child[0], child[-1]
    assert np.isclose(above, 1 - below)


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
    assert set(optimizer.archives) == {"left", "right"}
    for task, other in (("left", "right"), ("right", "left")):
        assert len(optimizer.archives[task]) >= 2
        for cell, (point, quality) in optimizer.archives[task].items():
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
            told = [float(curvature @ (np.array(p) - 0.5) ** 2) for p in points]
            optimizer.tell(points, [-value for value in told])
        losses[name] = min(told)
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
