import math

import numpy as np
import pytest
from scipy import stats

from evomerge.study.statistics.paired import chance, paired_difference

QUIZ = {"quiz": {"metric": "acc", "higher_is_better": True, "weight": 1.0}}


def tasks(n):
    return {f"t{i}": {"metric": "acc", "higher_is_better": True, "weight": 1.0} for i in range(n)}


def pairs(won, lost, equal):
    """0/1 values of two models that differ on so many items."""
    return [1.0] * won + [0.0] * lost + [1.0] * equal, [0.0] * won + [1.0] * lost + [1.0] * equal


def test_right_and_wrong_answers_are_compared_by_mcnemars_exact_test():
    # of 8 items that only one of them gets right ours gets 6: P = (28 + 8 + 1) / 256, one-sided
    ours, theirs = pairs(6, 2, 12)
    p = 37 / 256
    assert chance({"quiz": ours}, {"quiz": theirs}, QUIZ) == pytest.approx(p, rel=1e-9)
    assert paired_difference({"quiz": ours}, {"quiz": theirs}, QUIZ, 1 - 2.001 * p).low > 0
    assert paired_difference({"quiz": ours}, {"quiz": theirs}, QUIZ, 1 - 1.999 * p).low < 0


@pytest.mark.parametrize(("won", "lost", "equal"), [(5, 0, 0), (9, 3, 100), (40, 25, 335)])
def test_the_p_value_is_that_of_scipys_binomial_test(won, lost, equal):
    ours, theirs = pairs(won, lost, equal)
    exact = stats.binomtest(won, won + lost, alternative="greater").pvalue
    assert chance({"quiz": ours}, {"quiz": theirs}, QUIZ) == pytest.approx(exact, rel=1e-9)


def test_losses_that_were_not_seen_are_reckoned_with_by_hand():
    # 50 items gain g each; the imaginary one loses 1. Its random weight is above u in (1 - u)^50
    # of all cases, so the limit x has u = (g - x) / (g + 1), and (x + 1) / (g + 1) = .025^(1/50).
    g, n = 0.01, 50
    difference = paired_difference({"quiz": [0.5 + g] * n}, {"quiz": [0.5] * n}, QUIZ)
    assert difference.low == pytest.approx((1 + g) * 0.025 ** (1 / n) - 1, abs=1e-9)
    assert difference.difference == pytest.approx(g)
    assert difference.guaranteed


def test_on_many_items_it_is_the_ordinary_paired_t_interval():
    rng = np.random.default_rng(0)
    ours = rng.beta(2, 2, 8000)
    theirs = np.clip(ours + rng.normal(0, 0.2, 8000), 0, 1)
    difference = paired_difference({"quiz": ours}, {"quiz": theirs}, QUIZ)
    reference = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert difference.low == pytest.approx(reference.low, abs=2e-4)  # of a half width of .004
    assert difference.high == pytest.approx(reference.high, abs=2e-4)


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


def test_scores_outside_their_bounds_and_metrics_without_any_promise_nothing():
    free = {"text": {"metric": "bits_per_byte", "higher_is_better": False, "weight": 1.0}}
    ours, theirs = [1.0, 1.1, 0.9], [1.2, 1.3, 1.0]
    assert not paired_difference({"text": ours}, {"text": theirs}, free).guaranteed
    known = {"text": {**free["text"], "bounds": [0.0, 8.0]}}
    bounded = paired_difference({"text": ours}, {"text": theirs}, known)
    assert bounded.guaranteed
    assert bounded.low < paired_difference({"text": ours}, {"text": theirs}, free).low
    assert not paired_difference({"text": [1.0, 9.0]}, {"text": [1.0, 1.0]}, known).guaranteed
    unweighted = {"quiz": QUIZ["quiz"], "text": {**free["text"], "weight": 0.0}}
    assert paired_difference({"quiz": [1.0, 0.0]}, {"quiz": [0.0, 0.0]}, unweighted).guaranteed


def test_a_cluster_whose_items_go_together_counts_as_one_item():
    ours, theirs = pairs(14, 4, 10)
    one = paired_difference({"quiz": ours}, {"quiz": theirs}, QUIZ)
    thrice = {"quiz": np.repeat(ours, 3)}, {"quiz": np.repeat(theirs, 3)}
    labels = {"quiz": [i // 3 for i in range(84)]}
    together = paired_difference(*thrice, QUIZ, labels=labels)
    assert together.units == one.units == 28
    assert (together.low, together.high) == pytest.approx((one.low, one.high), abs=1e-9)
    alone = paired_difference(*thrice, QUIZ)
    assert alone.units == 84
    assert alone.low > together.low


def test_a_cluster_may_reach_over_tasks():
    two = tasks(2)
    a, b = pairs(7, 3, 10)
    one = paired_difference({"t0": a}, {"t0": b}, tasks(1))
    labels = {"t0": list(range(20)), "t1": list(range(20))}
    both = paired_difference({"t0": a, "t1": a}, {"t0": b, "t1": b}, two, labels=labels)
    assert both.units == 20
    assert (both.low, both.high) == pytest.approx((one.low, one.high), abs=1e-9)


@pytest.mark.parametrize("metric", ["acc", "a_metric_of_the_user"])
def test_rare_large_losses_do_not_show_an_improvement_more_often_than_promised(metric):
    rng = np.random.default_rng(0)
    spec = {"t": {"metric": metric, "higher_is_better": True, "weight": 1.0}}
    studies, shown, by_students_t = 400, 0, 0
    for _ in range(studies):  # 2 % of items lose 49 times what the rest gain: equal true means
        theirs = rng.uniform(0.3, 0.7, 50)
        ours = theirs + np.where(rng.random(50) < 0.02, -0.245, 0.005)
        ours += 1e-4 * rng.standard_normal(50)
        shown += chance({"t": ours}, {"t": theirs}, spec) < 0.025
        by_students_t += stats.ttest_rel(ours, theirs, alternative="greater").pvalue < 0.025
    assert shown / studies <= 0.025
    assert by_students_t / studies > 0.25  # so this test can fail


def test_unequal_gains_and_weights_of_tasks_announce_no_more_than_promised():
    rng = np.random.default_rng(0)
    specs = {"a": {**QUIZ["quiz"], "weight": 3.0}, "b": QUIZ["quiz"]}
    studies, shown = 1500, 0
    for _ in range(studies):  # ours gains .1 on task a and loses .3 on b: 3 x .1 = .3
        a, b = (rng.multinomial(n, p) for n, p in ((30, (0.2, 0.1, 0.7)), (60, (0.1, 0.4, 0.5))))
        columns = [pairs(*a), pairs(*b)]
        ours, theirs = ({"a": columns[0][i], "b": columns[1][i]} for i in (0, 1))
        shown += chance(ours, theirs, specs) < 0.025
    assert shown / studies <= 0.025 + 2 * math.sqrt(0.025 * 0.975 / studies)


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
    samples = 250
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
