"""CmaEs against pycma driven by hand, and what is ours in it: bounds, cells, restarts."""

import math

import cma
import numpy as np
import pytest

from evomerge.core.errors import UserError
from evomerge.optimizers import CmaEs
from evomerge.recipe.space.dimension import Dimension

FIVE = [Dimension(f"x{i}", low=0.0, high=2.0) for i in range(5)]


def sphere(point):
    return -float(((np.array(point) - 0.6) ** 2).sum())


def run(optimizer, generations, fitness):
    asked = []
    for _ in range(generations):
        points = optimizer.ask()
        asked.append(points)
        optimizer.tell(points, fitness(points))
    return asked


def test_it_asks_what_pycma_asks():
    ours = CmaEs(sigma=0.2)
    ours.start(FIVE, seed=11)
    asked = run(ours, 25, lambda points: [sphere(point) for point in points])

    # pycma alone, with its own defaults for everything that decides what it asks; it is told
    # losses, not ranks. Normal numbers: the documented stream, turned by B^T as cma.py says.
    generator = np.random.default_rng([11, 0])
    strategy = cma.CMAEvolutionStrategy(
        [0.5] * 5,
        0.2,
        {
            "bounds": [0, 1],
            "seed": math.nan,
            "randn": lambda *shape: generator.standard_normal(shape) @ strategy.sm.B,
            "verbose": -9,
            "verb_log": 0,
        },
    )
    strategy.inject([strategy.mean], force=True)  # the first point of all is the start
    for points in asked:
        units = strategy.ask()
        assert np.array(points) == pytest.approx(2 * np.array(units), abs=2e-6)
        strategy.tell(units, [-sphere(2 * unit) for unit in units])
    assert ours.mean == pytest.approx(2 * strategy.result.xfavorite, abs=2e-6)


def test_only_the_order_of_fitness_matters():
    plain, warped = CmaEs(), CmaEs()
    plain.start(FIVE, 0)
    warped.start(FIVE, 0)
    expected = run(plain, 8, lambda points: [sphere(p) for p in points])
    assert run(warped, 8, lambda points: [1e6 * sphere(p) ** 3 - 5 for p in points]) == expected


def test_a_failure_is_the_same_as_a_very_bad_fitness():
    failing, bad = CmaEs(), CmaEs()
    failing.start(FIVE, 0)
    bad.start(FIVE, 0)
    told_none = run(failing, 8, lambda ps: [None, *map(sphere, ps[1:])])
    told_bad = run(bad, 8, lambda ps: [-1e12, *map(sphere, ps[1:])])
    assert told_none == told_bad


def test_an_optimum_on_the_bound_is_reached_and_is_feasible():
    optimizer = CmaEs()
    optimizer.start(FIVE, 0)
    run(optimizer, 60, lambda points: [-sum(point) for point in points])
    assert all(0.0 <= value < 0.02 for value in optimizer.mean)


def test_integers_and_choices_keep_their_neighbours_in_reach():
    space = [Dimension("n", "int", 1, 10), Dimension("c", "categorical", choices=("x", "y"))]
    optimizer = CmaEs(sigma=0.2)
    optimizer.start(space, 0, initial=(5, "x"))
    settled = run(optimizer, 60, lambda points: [-abs(n - 5) - (c == "y") for n, c in points])
    late = [point for points in settled[-30:] for point in points]
    assert {n for n, _ in late} >= {4, 5, 6}  # without the smallest deviation: only 5
    assert optimizer.mean == (5, "x")


def test_after_converging_it_starts_again_with_twice_the_population():
    space = FIVE[:2]
    optimizer = CmaEs(restarts=1, population=6)
    optimizer.start(space, 0)
    sizes = [len(points) for points in run(optimizer, 130, lambda ps: [sphere(p) for p in ps])]
    change = sizes.index(12)
    assert sizes == [6] * change + [12] * (len(sizes) - change)
    assert optimizer.population == 12
    assert "converged" in optimizer.stopped
    assert optimizer.mean == pytest.approx((0.6, 0.6), abs=1e-5)


def test_without_restarts_it_says_that_it_has_stopped_and_can_still_be_asked():
    optimizer = CmaEs(restarts=0)
    optimizer.start(FIVE[:1], 0)
    assert optimizer.stopped is None
    run(optimizer, 120, lambda points: [sphere(point) for point in points])
    assert "converged" in optimizer.stopped
    assert len(optimizer.ask()) == 4


def test_options_out_of_range_are_refused():
    for sigma in (0, 1.5, "wide", True, math.nan):
        with pytest.raises(UserError, match=r"CmaEs sigma: expected .* in \(0, 1\], but got"):
            CmaEs(sigma=sigma)
    with pytest.raises(UserError, match="CmaEs restarts: expected an integer >= 0, but got -1"):
        CmaEs(restarts=-1)
    with pytest.raises(UserError, match="population for CmaEs: expected an integer >= 4"):
        CmaEs(population=3).start(FIVE, 0)


def test_nothing_is_written_or_read_where_it_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cma_signals.in").write_text("{'maxiter': 1, 'timeout': 0}")
    optimizer = CmaEs(restarts=0)
    optimizer.start(FIVE, 0)
    run(optimizer, 5, lambda points: [sphere(point) for point in points])
    assert optimizer.stopped is None
    assert [path.name for path in tmp_path.iterdir()] == ["cma_signals.in"]
