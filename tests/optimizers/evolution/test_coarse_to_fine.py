"""Coarse to fine: gradients are cut in halves, and nothing that was found is lost on the way."""

import numpy as np

from evomerge.optimizers import create
from evomerge.recipe.space.dimension import Dimension

SPACE = [
    Dimension(f"models[{m}].weight[{k}]", gradient=f"models[{m}].weight", knot=k)
    for m in "abc"
    for k in range(6)
]
SPACE.append(Dimension("density", low=0.1))


def pieces(point):
    """How many runs of equal values the first gradient has."""
    return 1 + int((np.diff(np.array(point[:6])) != 0).sum())


def search(optimizer, loss, generations):
    optimizer.start(SPACE, 0)
    asked = []
    for _ in range(generations):
        points = optimizer.ask()
        asked.append(points)
        optimizer.tell(points, [-loss(point) for point in points])
    return asked


def test_gradients_are_whole_then_halves_then_quarters_then_every_knot():
    optimizer = create("coarse_to_fine", generations=2)
    asked = search(optimizer, lambda point: sum(point), 9)
    seen = [max(map(pieces, points)) for points in asked]
    assert seen == [1, 1, 2, 2, 4, 4, 6, 6, 6]


def test_a_refinement_starts_at_the_mean_of_the_coarser_search_with_a_smaller_step():
    optimizer = create("coarse_to_fine", generations=10)
    search(optimizer, lambda point: float(((np.array(point) - 0.3) ** 2).sum()), 10)
    before = np.array(optimizer.mean)
    points = np.array(optimizer.ask())
    assert np.abs(points.mean(axis=0) - before).max() < 0.1
    assert points.std(axis=0).max() < 0.2


def test_smooth_profiles_are_found_sooner_than_knot_by_knot():
    # each gradient wants one level, with a slight slope: 18 knots, 80 points
    target = np.concatenate([level + np.linspace(-0.03, 0.03, 6) for level in (0.2, 0.8, 0.35)])
    loss = lambda point: float(((np.array(point[:18]) - target) ** 2).sum())  # noqa: E731
    losses = {}
    for name in ("coarse_to_fine", "catcma"):
        optimizer = create(name, sigma=0.12, population=10)
        search(optimizer, loss, 8)
        losses[name] = loss(optimizer.mean)
    assert losses["coarse_to_fine"] < losses["catcma"] / 2
