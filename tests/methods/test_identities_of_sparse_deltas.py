"""What the papers promise of methods that trim and drop elements and elect signs."""

import numpy as np
import pytest
import torch

from evomerge.methods import (
    CounterRandom,
    breadcrumbs,
    breadcrumbs_ties,
    dare_linear,
    dare_ties,
    della,
    della_linear,
    task_arithmetic,
    ties,
)
from evomerge.methods.deltas import drop, elect_sign, rank_densities, rescale, trim, trim_outliers
from tests.methods.comparing import close, exact

DRAW = CounterRandom(seed=0, name="a.weight")


def test_trim_keeps_exactly_the_count_that_density_asks_for(base):
    for density in (0.01, 0.2, 0.5, 0.999):
        trimmed = trim(base, density)
        count = max(1, int(density * 35))
        assert int((trimmed != 0).sum()) == count
        largest = np.sort(np.abs(exact(base)[0]).ravel())[-count:]
        np.testing.assert_array_equal(np.sort(trimmed[trimmed != 0].abs().numpy()), largest)
    assert torch.equal(trim(base, 1.0), base)
    assert torch.equal(trim(base, 0.0), torch.zeros_like(base))


def test_trim_keeps_the_lowest_indices_of_equal_magnitudes_within_a_run():
    delta = torch.tensor([[1.0, -2.0], [2.0, -2.0], [0.5, 2.0]])
    assert trim(delta, 0.5).tolist() == [[0.0, -2.0], [2.0, -2.0], [0.0, 0.0]]
    assert trim(torch.zeros(4), 0.5).tolist() == [0.0] * 4


def ties_reference(base, models, weights, densities, normalize, lambda_):
    """TIES as mergekit weights it, written with loops and sorts."""
    merged = base.astype(np.float64).copy().ravel()
    deltas = []
    for model, weight, density in zip(models, weights, densities, strict=True):
        delta = (model - base).ravel()
        largest_ones = np.argsort(-np.abs(delta), kind="stable")[
            : max(1, int(density * delta.size))
        ]
        trimmed = np.zeros_like(delta)
        trimmed[largest_ones] = delta[largest_ones]
        deltas.append(weight * trimmed)
    for i in range(merged.size):
        votes = [delta[i] for delta in deltas]
        sign = 1 if sum(votes) >= 0 else -1
        agreeing = [(v, w) for v, w in zip(votes, weights, strict=True) if np.sign(v) == sign]
        total, weight = sum(v for v, _ in agreeing), sum(w for _, w in agreeing)
        merged[i] += lambda_ * (total / weight if normalize and weight != 0 else total)
    return merged.reshape(base.shape)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [0.3, 0.7, 0.2, 1.4], [0.3, -0.7, 0.2, 1.4]])
def test_ties_is_its_definition(base, models, weights, normalize):
    densities = [0.2, 0.5, 0.9, 1.0]
    merged = ties(base, models, weights, densities, normalize=normalize, lambda_=0.6)
    b, *ms = exact(base, *models)
    assert close(merged, ties_reference(b, ms, weights, densities, normalize, 0.6), 2e-5)


def test_ties_of_one_untrimmed_model_is_task_arithmetic(base, models):
    one = models[:1]
    merged = ties(base, one, 1.0, lambda_=0.4)
    assert torch.equal(merged, task_arithmetic(base, one, 1.0, lambda_=0.4))


def test_ties_of_identical_models_is_that_model(base, models):
    assert close(ties(base, [models[0]] * 3, 0.5), exact(models[0])[0])


def test_ties_of_agreeing_signs_is_the_average(base, models):
    upward = [base + (model - base).abs() for model in models]
    assert close(ties(base, upward, 0.25), np.mean(exact(*upward), axis=0))


def test_ties_of_opposite_deltas_never_averages_to_nothing(models):
    # a tie elects +1, so the positive one of the two is taken whole
    zeros = torch.zeros(7, 5)
    assert torch.equal(ties(zeros, [models[0], -models[0]], 1.0), models[0].abs())


def test_a_tie_elects_plus_one():
    deltas = [torch.tensor([1.0, -1.0, 0.0]), torch.tensor([-1.0, -2.0, 0.0])]
    assert elect_sign(deltas).tolist() == [1.0, -1.0, 1.0]


def paper_ties(base, models, density, aggregate):
    """TIES as the paper tells it, but trimmed per tensor: weights 1, ties to the majority."""
    deltas = []
    for model in models:
        delta = (model - base).ravel()
        largest_ones = np.argsort(-np.abs(delta), kind="stable")[: int(density * delta.size)]
        deltas.append(np.where(np.isin(np.arange(delta.size), largest_ones), delta, 0))
    deltas = np.stack(deltas)
    sign = np.sign(deltas.sum(axis=0))
    sign[sign == 0] = 1 if sign.sum() >= 0 else -1
    agree = np.sign(deltas) == sign
    parts = np.where(agree, deltas, 0)
    merged = {
        "mean": parts.sum(axis=0) / np.maximum(agree.sum(axis=0), 1),
        "sum": parts.sum(axis=0),
        "max": sign * np.abs(parts).max(axis=0),
    }[aggregate]
    return base + merged.reshape(base.shape)


@pytest.mark.parametrize("aggregate", ["mean", "sum", "max"])
@pytest.mark.parametrize("mirrored", [1, -1])
def test_ties_with_the_papers_options_is_the_papers(base, models, aggregate, mirrored):
    models = [base + mirrored * (model - base) for model in models[:3]]
    models.append(base - (models[0] - base))  # half of the ties are exact
    options = {"density": 0.5, "aggregate": aggregate, "zero_sign": "majority"}
    b, *ms = exact(base, *models)
    zeros = torch.zeros_like(base)
    deltas = [model - base for model in models]  # float32, so that they cancel exactly
    merged = ties(zeros, deltas, 1.0, **options)
    assert close(merged, paper_ties(0 * b, exact(*deltas), 0.5, aggregate))
    assert close(ties(base, models, 1.0, **options), paper_ties(b, ms, 0.5, aggregate), 1e-4)


def test_votes_are_counted_or_weighed():
    models = [torch.tensor([5.0]), torch.tensor([-1.0]), torch.tensor([-2.0])]
    zero = torch.zeros(1)
    assert ties(zero, models, 1.0).item() == 5.0
    assert ties(zero, models, 1.0, consensus="count").item() == -1.5
    assert ties(zero, models, 1.0, consensus="count", aggregate="sum").item() == -3.0
    assert ties(zero, models, 1.0, consensus="count", aggregate="max").item() == -2.0


def test_a_tie_elects_plus_one_or_the_majority():
    models = [torch.tensor([1.0, -1.0, -3.0]), torch.tensor([-1.0, -2.0, -4.0])]
    zeros = torch.zeros(3)
    assert ties(zeros, models, 1.0).tolist() == [1.0, -1.5, -3.5]
    assert ties(zeros, models, 1.0, zero_sign="majority").tolist() == [-1.0, -1.5, -3.5]
    balanced = [torch.tensor([1.0, 2.0, -3.0]), torch.tensor([-1.0, 2.0, -4.0])]
    assert ties(zeros, balanced, 1.0, zero_sign="majority").tolist() == [1.0, 2.0, -3.5]


def test_ties_of_one_model_is_task_arithmetic_however_it_aggregates(base, models):
    one = models[:1]
    for options in ({"aggregate": "sum"}, {"aggregate": "max"}, {"consensus": "count"}):
        assert torch.equal(ties(base, one, 1.0, **options), task_arithmetic(base, one, 1.0))


def test_the_sum_is_the_mean_times_the_number_that_agree(base, models):
    upward = [base + (model - base).abs() for model in models]
    mean = ties(base, upward, 1.0) - base
    torch.testing.assert_close(ties(base, upward, 1.0, aggregate="sum") - base, 4 * mean)
    assert torch.equal(
        ties(base, models, 0.3, aggregate="sum"), ties(base, models, 0.3, normalize=False)
    )


def test_dare_at_density_one_is_task_arithmetic_and_ties(base, models):
    weights = [0.3, 0.7, 0.2, 0.4]
    assert torch.equal(
        dare_linear(base, models, weights, random=DRAW), task_arithmetic(base, models, weights)
    )
    assert torch.equal(
        dare_ties(base, models, weights, random=DRAW),
        ties(base, models, weights, normalize=False),
    )


def test_dare_keeps_the_l1_norm_as_mergekit_does(base, models):
    one = models[:1]
    merged = dare_linear(base, one, 1.0, density=0.3, random=DRAW)
    b, m, out = exact(base, models[0], merged)
    assert np.abs(out - b).sum() == pytest.approx(np.abs(m - b).sum(), rel=1e-4)
    is_base = np.isclose(out, b, atol=0)
    assert 0 < is_base.sum() < is_base.size


def test_dare_rescaled_by_the_density_is_right_on_average(base, models):
    one, total, n = models[:1], np.zeros((7, 5)), 3000
    for seed in range(n):
        random = CounterRandom(seed, "a.weight")
        merged = dare_linear(base, one, 1.0, density=0.25, rescale="inverse", random=random)
        total += exact(merged)[0]
    b, m = exact(base, models[0])
    error = np.abs(total / n - m)
    # the variance of delta * Bernoulli(p) / p is delta^2 (1 - p) / p
    assert (error < 4.5 * np.abs(m - b) * np.sqrt(3 / n) + 1e-6).all()


def test_dare_unrescaled_keeps_what_it_keeps(base, models):
    merged = dare_linear(base, models[:1], 1.0, density=0.5, rescale=False, random=DRAW)
    mask = DRAW.uniform(0, (7, 5)) < 0.5
    assert torch.equal(merged, torch.where(mask, base + (models[0] - base), base))


def test_elements_that_a_density_keeps_every_larger_density_keeps(base):
    uniforms = DRAW.uniform(0, (7, 5))
    previous = torch.zeros(7, 5, dtype=torch.bool)
    for density in np.linspace(0, 1, 21):
        survives = drop(base, float(density), uniforms) != 0
        assert bool((survives | ~previous).all())
        previous = survives
    assert bool(previous.all())


def test_models_are_dropped_independently():
    ones = torch.ones(100, 100)
    zeros = torch.zeros(100, 100)
    both = dare_linear(zeros, [ones, ones], 1.0, density=0.5, rescale=False, random=DRAW)
    counts = torch.bincount(both.flatten().long(), minlength=3) / 10_000
    np.testing.assert_allclose(counts.numpy(), [0.25, 0.5, 0.25], atol=0.02)


def test_rescale_by_l1_leaves_vanishing_deltas_alone():
    tiny = torch.full((4,), 1e-9)
    assert torch.equal(rescale(tiny, tiny, 0.5, "l1"), tiny)
    nothing = torch.zeros(4)
    assert torch.equal(rescale(nothing, torch.ones(4), 0.5, "l1"), nothing)


def test_della_at_density_one_is_task_arithmetic_and_ties(base, models):
    weights = [0.3, 0.7, 0.2, 0.4]
    assert torch.equal(
        della_linear(base, models, weights, random=DRAW), task_arithmetic(base, models, weights)
    )
    assert torch.equal(della(base, models, weights, random=DRAW), ties(base, models, weights))


@pytest.mark.parametrize("how", [True, False, "inverse"])
def test_della_without_epsilon_is_dare(base, models, how):
    weights, given = [0.3, 0.7, 0.2, 0.4], {"density": 0.4, "rescale": how, "random": DRAW}
    merged = della_linear(base, models, weights, epsilon=0.0, **given)
    torch.testing.assert_close(merged, dare_linear(base, models, weights, **given))
    merged = della(base, models, weights, epsilon=0.0, normalize=False, **given)
    torch.testing.assert_close(merged, dare_ties(base, models, weights, **given))


def test_della_keeps_large_elements_likelier_row_by_row():
    delta = torch.tensor([[0.3, -0.1, 0.2], [1.0, 5.0, -9.0]])
    expected = [[0.7, 0.3, 0.5], [0.3, 0.5, 0.7]]
    np.testing.assert_allclose(rank_densities(delta, 0.5, 0.2), expected, rtol=1e-6)
    column = rank_densities(torch.tensor([[3.0], [1.0]]), 0.5, 0.2)
    np.testing.assert_allclose(column, [[0.5], [0.5]])
    vector = rank_densities(torch.tensor([2.0, -4.0, 1.0]), 0.1, 0.9)  # room for 0.1 only
    np.testing.assert_allclose(vector, [0.1, 0.2, 0.0], atol=1e-7)


def test_della_rescaled_by_its_probabilities_is_right_on_average(base, models):
    one, total, n = models[:1], np.zeros((7, 5)), 3000
    for seed in range(n):
        random = CounterRandom(seed, "a.weight")
        merged = della_linear(
            base, one, 1.0, density=0.4, epsilon=0.2, rescale="inverse", random=random
        )
        total += exact(merged)[0]
    b, m = exact(base, models[0])
    error = np.abs(total / n - m)
    # the variance of delta * Bernoulli(p) / p is delta^2 (1 - p) / p, and p is at least 0.2
    assert (error < 4.5 * np.abs(m - b) * np.sqrt(4 / n) + 1e-6).all()


def test_breadcrumbs_keeps_what_lies_between_the_smallest_and_the_outliers(base):
    (b,) = exact(base)
    order = np.argsort(np.abs(b).ravel())
    for density, gamma, low, high in [(0.4, 0.1, 18, 32), (0.9, 0.2, 0, 31), (0.5, 0.0, 18, 35)]:
        survivors = np.flatnonzero(trim_outliers(base, density, gamma).numpy())
        np.testing.assert_array_equal(np.sort(survivors), np.sort(order[low:high]))
    assert torch.equal(trim_outliers(base, 1.0, 0.5), base)
    assert not trim_outliers(base, 0.01, 0.1).any()  # less than one element


def test_breadcrumbs_without_outliers_is_a_trimmed_task_arithmetic_and_ties(base, models):
    weights = [0.3, 0.7, 0.2, 0.4]
    merged = breadcrumbs(base, models, weights, density=0.4, gamma=0.0)
    trimmed = [base + trim(model - base, 0.4) for model in models]
    torch.testing.assert_close(merged, task_arithmetic(base, trimmed, weights))
    merged = breadcrumbs_ties(base, models, weights, density=0.4, gamma=0.0)
    torch.testing.assert_close(merged, ties(base, models, weights, density=0.4, normalize=False))
