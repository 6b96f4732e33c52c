"""CatCma against CatCMAwM driven by hand, and what is ours in it: ranks, kinds, the mean."""

import numpy as np
import pytest
from cmaes import CatCMAwM

from evomerge.core.errors import UserError
from evomerge.optimizers import CatCma
from evomerge.recipe.space.dimension import Dimension

MIXED = [
    Dimension("x"),
    Dimension("c", "categorical", choices=("p", "q", "r")),
    Dimension("d", "categorical", choices=(True, False)),
]


def loss(point):
    x, c, d = point
    return (x - 0.47) ** 2 + 0.01 * (c != "q") + 0.01 * (d is not False)


def run(optimizer, generations, fitness):
    asked = []
    for _ in range(generations):
        points = optimizer.ask()
        asked.append(points)
        optimizer.tell(points, fitness(points))
    return asked


def test_it_asks_what_catcmawm_asks():
    # One float, so that both ways to draw with C agree; a small sigma, so that nothing leaves
    # the bounds, where a penalty on losses differs from a penalty on ranks.
    ours = CatCma(sigma=0.03, population=8)
    ours.start(MIXED, seed=3)
    asked = run(ours, 15, lambda points: [-loss(point) for point in points])

    theirs = CatCMAwM(
        x_space=[[0.0, 1.0]],
        c_space=[3, 2],
        population_size=8,
        mean=np.array([0.5]),
        sigma=0.03,
        cov=np.eye(1),
        cat_param=np.array([[2 / 3, 1 / 6, 1 / 6], [0.75, 0.25, 0.0]]),
        seed=int(np.random.SeedSequence(3).generate_state(1)[0]),
    )
    for number, points in enumerate(asked):
        solutions = [theirs.ask() for _ in range(8)]
        if number == 0:  # the first point of all is the start
            first = np.array([[True, False, False], [True, False, False]])
            solutions[0] = CatCMAwM.Solution(np.array([0.5]), None, first, np.array([0.5]))
        expected = [(float(s.x[0]), "pqr"[s.c[0].argmax()], not s.c[1].argmax()) for s in solutions]
        assert [p[1:] for p in points] == [e[1:] for e in expected]
        assert [p[0] for p in points] == pytest.approx([e[0] for e in expected], abs=1e-6)
        theirs.tell([(s, loss(e)) for s, e in zip(solutions, expected, strict=True)])


def test_its_draws_have_the_mean_and_the_correlation_that_it_has_learnt():
    # Of x + y only the sum counts, so that x and y vary against each other, and z by itself.
    space = [Dimension("x"), Dimension("y"), Dimension("z")]
    optimizer = CatCma(sigma=0.03)
    optimizer.start(space, 0, initial=(0.5, 0.5, 0.5))
    run(
        optimizer, 25, lambda points: [-((x + y - 0.9) ** 2) - (z - 0.4) ** 2 for x, y, z in points]
    )
    asked = run(optimizer, 1500, lambda points: [None] * len(points))  # which teaches nothing
    draws = np.array([point for points in asked for point in points])
    scale = draws.std(axis=0)
    assert draws.mean(axis=0) == pytest.approx(optimizer.mean, abs=0.04 * scale.max())
    correlation = np.corrcoef(draws.T)
    assert correlation[0, 1] < -0.5
    sums, differences = draws[:, 0] + draws[:, 1], draws[:, 0] - draws[:, 1]
    assert sums.std() < differences.std() / 2


def test_only_the_order_of_fitness_matters():
    plain, warped = CatCma(), CatCma()
    plain.start(MIXED, 0)
    warped.start(MIXED, 0)
    expected = run(plain, 8, lambda points: [-loss(p) for p in points])
    assert run(warped, 8, lambda points: [-1e6 * loss(p) ** 3 for p in points]) == expected


def test_a_failure_is_the_same_as_a_very_bad_fitness():
    failing, bad = CatCma(), CatCma()
    failing.start(MIXED, 0)
    bad.start(MIXED, 0)
    told_none = run(failing, 8, lambda ps: [None, *(-loss(p) for p in ps[1:])])
    told_bad = run(bad, 8, lambda ps: [-1e12, *(-loss(p) for p in ps[1:])])
    assert told_none == told_bad


def test_the_first_choice_is_the_likeliest_at_first():
    optimizer = CatCma(population=600)
    optimizer.start(MIXED, 0, initial=(0.5, "r", True))
    points = optimizer.ask()
    assert points[0] == (0.5, "r", True)
    assert np.mean([c == "r" for _, c, _ in points]) == pytest.approx(2 / 3, abs=0.06)
    assert np.mean([d is True for _, _, d in points]) == pytest.approx(3 / 4, abs=0.06)


def test_the_mean_follows_floats_integers_and_choices():
    space = [*MIXED, Dimension("n", "int", 1, 9), Dimension("m", "int", 1, 400, log=True)]
    optimizer = CatCma()
    optimizer.start(space, 0)

    def fitness(points):
        return [
            -loss((x, c, d)) - ((n - 7) / 8) ** 2 - np.log10(m / 20) ** 2
            for x, c, d, n, m in points
        ]

    run(optimizer, 80, fitness)
    x, c, d, n, m = optimizer.mean
    assert (c, d, n) == ("q", False, 7)
    assert x == pytest.approx(0.47, abs=0.02)
    assert 18 <= m <= 22


def test_an_optimum_on_the_bound_is_reached():
    space = [Dimension(f"x{i}") for i in range(5)]
    optimizer = CatCma()
    optimizer.start(space, 0)
    run(optimizer, 60, lambda points: [-sum(point) for point in points])
    assert all(0.0 <= value < 0.02 for value in optimizer.mean)


def test_it_says_when_every_float_has_settled():
    optimizer = CatCma()
    optimizer.start(MIXED[:1], 0)
    assert optimizer.stopped is None
    run(optimizer, 150, lambda points: [-((p[0] - 0.3) ** 2) for p in points])
    assert "converged" in optimizer.stopped
    assert optimizer.mean == pytest.approx((0.3,), abs=1e-5)


def test_options_out_of_range_are_refused():
    with pytest.raises(UserError, match=r"CatCma sigma: expected .* but got 2"):
        CatCma(sigma=2)
    with pytest.raises(UserError, match="population for CatCma: expected an integer >= 4"):
        CatCma(population=2).start(MIXED, 0)
