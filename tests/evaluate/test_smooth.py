from __future__ import annotations

import math

import numpy as np
import pytest

from evomerge.evaluate.likelihood import Likelihood
from evomerge.evaluate.smooth import (
    CHOICE_TEMPERATURE,
    TOKEN_TEMPERATURE,
    smooth_answer,
    smooth_choice,
    smooth_metric,
)
from evomerge.evaluate.target import Choices


def answer(*margins: float) -> Likelihood:
    steps = np.array(margins) * TOKEN_TEMPERATURE
    return Likelihood(np.zeros(len(margins)), steps, all(m > 0 for m in margins), len(margins))


def choice(total: float) -> Likelihood:
    return Likelihood(np.array([total]), np.zeros(1), False, 1)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_an_answer_is_nine_tenths_its_worst_token_and_one_tenth_the_mean() -> None:
    expected = 0.9 * sigmoid(-2) + 0.1 * (sigmoid(1) + sigmoid(-2) + sigmoid(3)) / 3
    assert smooth_answer([answer(1.0, -2.0, 3.0)]) == pytest.approx(expected)


def test_the_best_of_several_right_answers_counts() -> None:
    assert smooth_answer([answer(-3.0), answer(2.0), answer(0.0)]) == pytest.approx(sigmoid(2.0))


def test_an_answer_that_comes_out_beats_one_that_fails_by_as_much_at_one_token() -> None:
    assert smooth_answer([answer(0.1, 0.1)]) > 0.5 > smooth_answer([answer(-0.1, -0.1)])


def test_extreme_margins_stay_finite_and_in_range() -> None:
    assert smooth_answer([answer(-1e6, 1e6)]) == pytest.approx(0.05)
    assert smooth_answer([answer(-1e6)]) == 0.0
    assert smooth_answer([answer(1e6)]) == 1.0


def test_every_token_that_gets_nearer_raises_the_score_of_a_wrong_answer() -> None:
    assert smooth_answer([answer(-9.0, -3.0)]) > smooth_answer([answer(-9.0, -4.0)])


def test_a_choice_is_its_margin_over_the_best_wrong_one() -> None:
    choices = Choices(golds=(1,), lengths=(1.0, 1.0, 1.0), unconditional=False)
    found = smooth_choice([choice(-5.0), choice(-4.0), choice(-4.5)], choices)
    assert found == pytest.approx(sigmoid(0.5 / CHOICE_TEMPERATURE))


def test_a_choice_is_normalised_as_its_metric_is() -> None:
    # Per character -1 and -0.5: the longer one is right under acc_norm, though less likely.
    choices = Choices(golds=(1,), lengths=(4.0, 12.0), unconditional=False)
    found = smooth_choice([choice(-4.0), choice(-6.0)], choices)
    assert found == pytest.approx(sigmoid(0.5 * 8.0 / CHOICE_TEMPERATURE))


def test_mutual_information_subtracts_what_is_likely_anyway() -> None:
    choices = Choices(golds=(0,), lengths=(1.0, 1.0), unconditional=True)
    found = smooth_choice([choice(-4.0), choice(-3.0), choice(-6.0), choice(-3.5)], choices)
    assert found == pytest.approx(sigmoid((2.0 - 0.5) / CHOICE_TEMPERATURE))


def test_other_metrics_of_such_a_task_subtract_nothing() -> None:
    choices = Choices(golds=(0,), lengths=(1.0, 1.0), unconditional=False)
    found = smooth_choice([choice(-4.0), choice(-3.0), choice(-6.0), choice(-3.5)], choices)
    assert found == pytest.approx(sigmoid(-1.0 / CHOICE_TEMPERATURE))


def test_without_a_wrong_choice_every_answer_is_right() -> None:
    assert smooth_choice([choice(-4.0)], Choices((0,), (1.0,), False)) == 1.0


def test_a_metric_that_stands_in_points_upwards() -> None:
    assert smooth_metric(0.25, higher_is_better=True) == 0.25
    assert smooth_metric(3.0, higher_is_better=False) == 0.25
