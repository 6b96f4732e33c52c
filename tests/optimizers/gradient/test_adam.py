"""Adam against PyTorch's own, and what an optimizer in a study has to do."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from evomerge.core.errors import UserError
from evomerge.optimizers import Optimizer, create
from evomerge.recipe.space.dimension import Dimension, Point

SPACE = [Dimension("a", low=-5.0, high=5.0, initial=0.5), Dimension("b", low=-5.0, high=5.0)]
Gradient = Callable[[Point], list[float]]


def started(space: Sequence[Dimension] = SPACE, **options: Any) -> Optimizer:
    optimizer = create("adam", **options)
    optimizer.start(space, 0)
    return optimizer


def bowl(point: Point) -> list[float]:
    """The gradient of (a - 1)^2 + 10 (b + 2)^2."""
    return [2 * (point[0] - 1), 20 * (point[1] + 2)]


def walk(optimizer: Optimizer, steps: int, gradient: Gradient = bowl) -> list[Point]:
    points = []
    for _ in range(steps):
        (point,) = optimizer.ask()
        points.append(point)
        optimizer.tell([point], [0.0], gradients=[gradient(point)])
    return points


def test_it_takes_the_steps_of_torch_s_adam() -> None:
    at = torch.tensor([0.5, 0.0], dtype=torch.float64, requires_grad=True)
    reference = torch.optim.Adam([at], lr=0.05, betas=(0.9, 0.999), eps=1e-12)
    for point in walk(started(lr=0.05), 60):
        assert point == pytest.approx(tuple(at.tolist()), abs=2e-4)  # points are rounded
        at.grad = torch.tensor(bowl((at[0].item(), at[1].item())), dtype=torch.float64)
        reference.step()


def test_it_finds_the_bottom_of_a_bowl() -> None:
    assert walk(started(steps=400, lr=0.1), 400)[-1] == pytest.approx((1.0, -2.0), abs=0.05)


def test_points_stay_in_their_ranges() -> None:
    space = [Dimension("a", low=0.0, high=1.0)]
    points = walk(started(space, steps=100), 60, lambda _: [-1.0])
    assert points[-1] == (1.0,)


def test_a_logarithmic_dimension_moves_by_factors() -> None:
    space = [Dimension("a", low=1e-4, high=1.0, log=True, initial=0.01)]
    points = walk(started(space, lr=0.05), 2, lambda _: [1.0])
    assert points[1][0] == pytest.approx(0.01 * math.exp(-0.05))


def test_what_has_no_gradient_stays_where_it_starts() -> None:
    space = [
        Dimension("weight", low=0.0, high=2.0, initial=0.5),
        Dimension("layers", "int", 1, 8, initial=3),
        Dimension("method", "categorical", choices=("linear", "slerp"), initial="slerp"),
        Dimension("density", low=0.0, high=1.0, initial=0.7),
    ]
    points = walk(started(space), 5, lambda _: [-1.0, 0.0, 0.0, 0.0])
    assert points[-1][1:] == (3, "slerp", 0.7)
    assert points[-1][0] > 0.6


def test_decay_draws_towards_the_start_and_not_to_zero() -> None:
    still = lambda _: [0.0, 0.0]  # noqa: E731
    optimizer = create("adam", decay=1.0, steps=200)
    optimizer.start(SPACE, 0)
    walk(optimizer, 1, lambda _: [-1.0, 0.0])
    assert walk(optimizer, 150, still)[-1][0] == pytest.approx(0.5, abs=0.01)


def test_a_point_that_failed_is_taken_back_half_the_way_with_half_the_steps() -> None:
    optimizer = started()
    first, second = walk(optimizer, 2, lambda _: [-1.0, 0.0])
    (third,) = optimizer.ask()
    optimizer.tell([third], [None], gradients=[None])
    (fourth,) = optimizer.ask()
    assert fourth[0] == pytest.approx((second[0] + third[0]) / 2)
    optimizer.tell([fourth], [0.0], gradients=[[-1.0, 0.0]])
    (fifth,) = optimizer.ask()
    assert fifth[0] - fourth[0] == pytest.approx((second[0] - first[0]) / 2, rel=0.01)


def test_retelling_it_through_json_resumes_it_bit_for_bit() -> None:
    first = started(steps=50)
    past = []
    for n in range(12):
        (point,) = first.ask()
        gradient = None if n == 5 else bowl(point)
        first.tell([point], [None if n == 5 else 0.1], gradients=[gradient])
        past.append((point, gradient))
    again = started(steps=50)
    for point, gradient in json.loads(json.dumps(past)):
        assert again.ask() == [tuple(point)]
        again.tell([tuple(point)], [None if gradient is None else 0.1], gradients=[gradient])
    assert again.ask() == first.ask()
    assert (again.mean, again.milestones) == (first.mean, first.milestones)


def test_its_mean_is_that_of_the_last_half_of_its_points() -> None:
    optimizer = started(steps=8)
    points = walk(optimizer, 8)
    assert optimizer.mean == pytest.approx(tuple(np.mean(points[4:], axis=0)), abs=1e-4)
    assert optimizer.milestones == [points[i] for i in (1, 3, 5, 7)]
    assert optimizer.stopped == "8 steps"


def test_before_its_first_step_the_mean_is_the_start() -> None:
    optimizer = started()
    assert optimizer.mean == (0.5, 0.0)
    assert optimizer.milestones == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "perplexity"}, "expected one of answers, margin, .*got 'perplexity'"),
        ({"lr": 0.0}, "Adam lr"),
        ({"steps": 0}, "Adam steps"),
        ({"decay": -1}, r"Adam decay: expected a number in \[0, inf\)"),
        ({"beta1": 1.0}, r"Adam beta1: expected a number in \[0, 1\)"),
        ({"piecewise": 1}, "Adam piecewise: expected true or false"),
    ],
)
def test_wrong_options_are_refused_in_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        create("adam", **options)
    assert "\n" not in str(caught.value)


def test_a_space_without_a_range_and_a_population_are_refused() -> None:
    with pytest.raises(UserError, match="no dimension is a number in a range"):
        started([Dimension("method", "categorical", choices=("x", "y"))])
    with pytest.raises(UserError, match="population for Adam"):
        create("adam", population=4).start(SPACE, 0)
