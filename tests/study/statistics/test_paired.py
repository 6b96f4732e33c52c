import math

import numpy as np
import pytest
from scipy import stats

from evomerge.study.statistics.paired import paired_difference

QUIZ = {"quiz": {"metric": "acc", "higher_is_better": True, "weight": 1.0}}


def tasks(n):
    return {f"t{i}": {"metric": "acc", "higher_is_better": True, "weight": 1.0} for i in range(n)}


def pairs(won, lost, equal):
    """0/1 values of two models that differ on so many items."""
    return [1.0] * won + [0.0] * lost + [1.0] * equal, [0.0] * won + [1.0] * lost + [1.0] * equal


def test_the_interval_is_the_formula_worked_by_hand():
    ours, theirs = pairs(6, 2, 12)
    difference = paired_difference({"quiz": ours}, {"quiz": theirs}, QUIZ)
    # n = 20: c = 4 / 21, s² = (8 + 1) / 21 - c², v = s² / 20, df = 20; t from tables: 2.0860
    c = 4 / 21
    half = 2.0860 * math.sqrt((9 / 21 - c * c) / 20)
    assert difference.difference == pytest.approx(0.2)
    assert difference.low == pytest.approx(c - half, abs=1e-4)
    assert difference.high == pytest.approx(c + half, abs=1e-4)


def test_on_many_items_it_is_the_ordinary_paired_t_interval():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0.3, 1, 4000), rng.normal(0.2, 1, 4000)
    difference = paired_difference({"quiz": ours}, {"quiz": theirs}, QUIZ)
    reference = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert difference.low == pytest.approx(reference.low, abs=1e-3)
    assert difference.high == pytest.approx(reference.high, abs=1e-3)


def test_swapping_the_sides_mirrors_the_interval():
    ours, theirs = pairs(7, 1, 9)
    one = paired_difference({"quiz": ours}, {"quiz": theirs}, QUIZ)
    other = paired_difference({"quiz": theirs}, {"quiz": ours}, QUIZ)
    assert (one.difference, one.low, one.high) == pytest.approx(
        (-other.difference, -other.high, -other.low)
    )


def test_lower_is_better_turns_the_sign_and_the_unit_scales_the_interval():
    ours, theirs = [10.0, 12.0, 9.0], [12.0, 13.0, 15.0]
    less = {"text": {"metric": "perplexity", "higher_is_better": False, "weight": 2.0}}
    difference = paired_difference({"text": ours}, {"text": theirs}, less)
    assert difference.difference == pytest.approx(3.0)
    thousand = paired_difference(
        {"text": [1000 * x for x in ours]}, {"text": [1000 * x for x in theirs]}, less
    )
    assert (thousand.low, thousand.high) == pytest.approx(
        (1000 * difference.low, 1000 * difference.high)
    )


def test_tasks_count_by_their_weight_and_not_by_their_items():
    a, b = pairs(10, 0, 10), pairs(0, 100, 300)
    weighted = {
        "a": {"metric": "acc", "higher_is_better": True, "weight": 3.0},
        "b": {"metric": "acc", "higher_is_better": True, "weight": 1.0},
        "unweighted": {"metric": "acc", "higher_is_better": True, "weight": 0.0},
    }
    difference = paired_difference({"a": a[0], "b": b[0]}, {"a": a[1], "b": b[1]}, weighted)
    assert difference.difference == pytest.approx((3 * 0.5 - 0.25) / 4)
    assert difference.low < difference.difference < difference.high


@pytest.mark.parametrize("value", [0.0, 1.0, 17.0])
@pytest.mark.parametrize("n", [1, 2, 10, 1000])
def test_models_that_never_differ_give_an_interval_around_zero(n, value):
    difference = paired_difference({"quiz": [value] * n}, {"quiz": [value] * n}, QUIZ)
    assert difference.difference == 0
    assert difference.low < 0 < difference.high


@pytest.mark.parametrize(("n", "proves"), [(1, False), (2, False), (3, False), (12, True)])
def test_a_few_items_that_all_go_one_way_prove_nothing(n, proves):
    difference = paired_difference({"quiz": [1.0] * n}, {"quiz": [0.0] * n}, QUIZ)
    assert (difference.low > 0) is proves


@pytest.mark.parametrize("bad", [[], [1.0], [1.0, math.nan], [1.0, math.inf]])
def test_unpaired_or_non_finite_values_are_refused(bad):
    with pytest.raises(ValueError, match="task quiz"):
        paired_difference({"quiz": bad}, {"quiz": [1.0, 0.0]}, QUIZ)


def coverage(n_tasks, n, won, lost, samples, seed=0, confidence=0.95):
    """How often the interval holds the truth, and how often it lies above it."""
    rng = np.random.default_rng(seed)
    weights = tasks(n_tasks)
    holds = above = 0
    for _ in range(samples):
        ours, theirs = {}, {}
        for task in weights:
            ours[task], theirs[task] = pairs(*rng.multinomial(n, [won, lost, 1 - won - lost]))
        difference = paired_difference(ours, theirs, weights, confidence)
        holds += difference.low <= won - lost <= difference.high
        above += difference.low > won - lost
    return holds / samples, above / samples


@pytest.mark.parametrize(
    ("n_tasks", "n", "won", "lost"),
    [(1, 10, 0.1, 0.1), (1, 50, 0.25, 0.25), (3, 20, 0.15, 0.05), (1, 20, 0.05, 0.0)],
)
def test_the_interval_holds_the_truth_as_often_as_it_says(n_tasks, n, won, lost):
    samples = 1000
    holds, above = coverage(n_tasks, n, won, lost, samples)
    # three standard deviations of a binomial share below and above what is promised
    assert holds >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / samples)
    assert above <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / samples)


@pytest.mark.slow
@pytest.mark.parametrize("confidence", [0.95, 0.975])
def test_over_many_shapes_the_interval_never_claims_too_much(confidence):
    samples = 4000
    tail = (1 - confidence) / 2
    for n_tasks, n in [(1, 10), (1, 20), (1, 50), (1, 150), (3, 20), (3, 150), (8, 20)]:
        for won, lost in [(0.02, 0.02), (0.1, 0.1), (0.25, 0.25), (0.15, 0.05), (0.3, 0.0)]:
            holds, above = coverage(n_tasks, n, won, lost, samples, confidence=confidence)
            print(f"{n_tasks} x {n}, {won:.0%} {lost:.0%}: {holds:.3f} ({above:.3f})")
            assert above <= tail + 4 * math.sqrt(tail / samples)
            # few items have few possible outcomes: coverage moves in steps, on the other side
            assert holds >= confidence - 0.02
