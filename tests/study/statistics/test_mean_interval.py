"""Intervals of scores: exact where the exact one is known, and no narrower with clusters."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from evomerge.study.statistics.mean_interval import mean_interval
from evomerge.study.statistics.outcome import TaskSpec

ACC: TaskSpec = {"metric": "acc", "higher_is_better": True, "weight": 1.0}
BITS: TaskSpec = {"metric": "bits_per_byte", "higher_is_better": False, "weight": 1.0}


@pytest.mark.parametrize(("right", "n"), [(0, 7), (3, 10), (50, 100), (199, 200)])
def test_right_and_wrong_answers_get_the_interval_of_clopper_and_pearson(
    right: int, n: int
) -> None:
    one = mean_interval({"quiz": [1.0] * right + [0.0] * (n - right)}, {"quiz": ACC})
    assert one.score == pytest.approx(right / n)
    assert one.low == pytest.approx(beta.ppf(0.025, right, n - right + 1) if right else 0.0)
    assert one.high == pytest.approx(beta.ppf(0.975, right + 1, n - right))
    assert one.guaranteed
    assert one.units == n


def test_the_interval_holds_the_true_mean_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        scores = draw.beta(0.4, 2.0, 40)  # skewed, mean 1/6
        bounded: TaskSpec = {**ACC, "metric": "f1", "bounds": (0.0, 1.0)}
        one = mean_interval({"t": scores.tolist()}, {"t": bounded})
        covered += one.low <= 1 / 6 <= one.high
    assert covered >= 0.95 * 100 - 5  # two standard errors


def test_a_task_of_which_less_is_better_keeps_its_direction_alone_and_counts_with_a_minus() -> None:
    bits = [1.0, 2.0, 4.0]
    alone = mean_interval({"text": bits}, {"text": BITS})
    assert alone.score == pytest.approx(7 / 3)
    assert alone.low < alone.score < alone.high
    assert not alone.guaranteed
    both = mean_interval({"text": bits, "quiz": [1.0, 0.0]}, {"text": BITS, "quiz": ACC})
    assert both.score == pytest.approx((0.5 - 7 / 3) / 2)
    assert both.low < both.score < both.high


def test_items_of_one_cluster_count_once() -> None:
    scores = [1.0, 1.0, 0.0, 0.0] * 10
    labels = {"quiz": [i // 2 for i in range(40)]}
    apart = mean_interval({"quiz": scores}, {"quiz": ACC})
    joined = mean_interval({"quiz": scores}, {"quiz": ACC}, labels=labels)
    halved = mean_interval({"quiz": [1.0, 0.0] * 10}, {"quiz": ACC})
    assert joined.units == 20
    assert joined.high - joined.low > apart.high - apart.low
    assert (joined.low, joined.high) == pytest.approx((halved.low, halved.high))
