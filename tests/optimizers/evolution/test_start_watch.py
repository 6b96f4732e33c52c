"""A start that is better than all about it stays the answer."""

import numpy as np
import pytest

from evomerge.optimizers import create
from evomerge.optimizers.evolution.start_watch import StartWatch
from evomerge.recipe.space.dimension import Dimension

SPACE = [Dimension(f"x{i}") for i in range(8)]
START = (0.5,) * 8
NAMES = ["catcma", "cmaes", "sepcma", "coarse_to_fine"]


def mean_after(name, generations, fitness):
    optimizer = create(name)
    optimizer.start(SPACE, 0, START)
    for _ in range(generations):
        points = optimizer.ask()
        optimizer.tell(points, [fitness(point) for point in points])
    return optimizer.mean


@pytest.mark.parametrize("name", NAMES)
def test_the_first_point_of_all_is_the_start(name):
    optimizer = create(name)
    optimizer.start(SPACE, 0, (0.25,) * 8)
    assert optimizer.ask()[0] == (0.25,) * 8


@pytest.mark.parametrize("name", NAMES)
def test_a_start_on_a_peak_stays_the_answer(name):
    def on_a_peak(point):  # elsewhere it gets better towards 1
        return 10.0 if point == START else sum(point) / 8

    assert mean_after(name, 6, on_a_peak) == START


@pytest.mark.parametrize("name", NAMES)
def test_a_start_that_others_beat_is_left(name):
    assert mean_after(name, 6, sum) != START


def test_the_better_halves_of_the_last_three_generations_count():
    watch = StartWatch()
    assert not watch.leads
    watch.learn([0.5, 0.9, 0.1, 0.7])  # (0.9 + 0.7) / 2, the start left out
    assert not watch.leads
    watch.learn([0.4, 0.2, None, 0.0])  # (0.4 + 0.2) / 2; with the 0.8 of before 0.55
    assert not watch.leads
    watch.learn([0.3, None, None, None])  # 1.4 / 3
    assert watch.leads
    watch.learn([0.9, 0.9])  # 0.3, 0.3 and 0.9: as good as the start
    assert not watch.leads


def test_a_failed_start_and_generations_of_failures_say_nothing():
    watch = StartWatch()
    watch.learn([None, 0.1])
    watch.learn([None, None])
    assert not watch.leads
    watch = StartWatch()
    watch.learn([0.5, None])
    assert not watch.leads


@pytest.mark.parametrize("name", NAMES)
def test_where_all_is_alike_but_for_noise_the_start_is_left(name):
    draw = np.random.default_rng(3)
    assert mean_after(name, 6, lambda point: 0.0 if point == START else draw.normal()) != START
