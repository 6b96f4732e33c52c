from __future__ import annotations

import math

import numpy as np
import pytest

from evomerge.evaluate.likelihood.likelihood import Likelihoods
from evomerge.evaluate.scoring.choice_table import ChoiceTable
from evomerge.evaluate.scoring.smooth import (
    CHOICE_TEMPERATURE,
    TOKEN_TEMPERATURE,
    smooth_answers,
    smooth_metric,
)
from evomerge.evaluate.tasks.target import Choices


def answers(*margins: list[float]) -> list[float]:
    """Smooth scores of answers whose tokens have these margins, in temperatures."""
    flat = np.array([m for one in margins for m in one]) * TOKEN_TEMPERATURE
    stops = np.cumsum([len(one) for one in margins])
    starts = stops - [len(one) for one in margins]
    table = np.stack((np.zeros(len(flat)), flat, flat > 0))
    return list(smooth_answers(Likelihoods(table, starts, stops, stops - starts)))


def answer(*margins: float) -> float:
    return answers([0.0], list(margins), [9.0, -9.0])[1]


def choice(totals: list[float], choices: Choices) -> float:
    """The smooth score of one document among others of other widths."""
    other = Choices((0,), (1.0,) * 5, choices.unconditional)
    extra = [-1.0] * (10 if choices.unconditional else 5)
    numbers = range(len(extra), len(extra) + len(totals))
    table = ChoiceTable.of([(other, range(len(extra))), (choices, numbers)])
    metric, smooth = table.judge(np.array(extra + totals))
    assert (smooth[1] > 0.5) == (metric[1] == 1.0)
    return float(smooth[1])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_an_answer_is_nine_tenths_its_worst_token_and_one_tenth_the_mean() -> None:
    expected = 0.9 * sigmoid(-2) + 0.1 * (sigmoid(1) + sigmoid(-2) + sigmoid(3)) / 3
    assert answer(1.0, -2.0, 3.0) == pytest.approx(expected)


def test_an_answer_that_comes_out_beats_one_that_fails_by_as_much_at_one_token() -> None:
    assert answer(0.1, 0.1) > 0.5 > answer(-0.1, -0.1)


def test_extreme_margins_stay_finite_and_in_range() -> None:
    assert answer(-1e6, 1e6) == pytest.approx(0.05)
    assert answer(-1e6) == 0.0
    assert answer(1e6) == 1.0


def test_every_token_that_gets_nearer_raises_the_score_of_a_wrong_answer() -> None:
    assert answer(-9.0, -3.0) > answer(-9.0, -4.0)


def test_a_choice_is_its_margin_over_the_best_wrong_one() -> None:
    choices = Choices(golds=(1,), lengths=(1.0, 1.0, 1.0), unconditional=False)
    score = choice([-5.0, -4.0, -4.5], choices)
    assert score == pytest.approx(sigmoid(0.5 / CHOICE_TEMPERATURE))


def test_a_choice_is_normalised_as_its_metric_is() -> None:
    # Per character -1 and -0.5: the longer one is right under acc_norm, though less likely.
    choices = Choices(golds=(1,), lengths=(4.0, 12.0), unconditional=False)
    score = choice([-4.0, -6.0], choices)
    assert score == pytest.approx(sigmoid(0.5 * 8.0 / CHOICE_TEMPERATURE))


def test_mutual_information_subtracts_what_is_likely_anyway() -> None:
    choices = Choices(golds=(0,), lengths=(1.0, 1.0), unconditional=True)
    score = choice([-4.0, -3.0, -6.0, -3.5], choices)
    assert score == pytest.approx(sigmoid((2.0 - 0.5) / CHOICE_TEMPERATURE))


def test_other_metrics_of_such_a_task_subtract_nothing() -> None:
    choices = Choices(golds=(0,), lengths=(1.0, 1.0), unconditional=False)
    score = choice([-4.0, -3.0, -6.0, -3.5], choices)
    assert score == pytest.approx(sigmoid(-1.0 / CHOICE_TEMPERATURE))


def test_without_a_wrong_choice_every_answer_is_right() -> None:
    assert choice([-4.0], Choices((0,), (1.0,), False)) == 1.0


def test_a_metric_that_stands_in_points_upwards() -> None:
    assert smooth_metric(0.25, higher_is_better=True) == 0.25
    assert smooth_metric(3.0, higher_is_better=False) == 0.25
