"""What the papers promise, worked by hand or in float64 numpy."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from evomerge.core.errors import UserError
from evomerge.methods import (
    CounterRandom,
    arcee_fusion,
    breadcrumbs,
    breadcrumbs_ties,
    consensus_ta,
    consensus_ties,
    curve,
    dare_linear,
    dare_ties,
    della,
    della_linear,
    karcher,
    linear,
    magnitude_prune,
    mask_merge,
    model_stock,
    multislerp,
    nearswap,
    nuslerp,
    passthrough,
    ram,
    ramplus_tl,
    sce,
    slerp,
    task_arithmetic,
    ties,
    varm,
    wise_ft,
)
from evomerge.methods.arcee_fusion import sampled
from evomerge.methods.deltas import drop, elect_sign, rank_densities, rescale, trim, trim_outliers

DRAW = CounterRandom(seed=0, name="a.weight")


@pytest.fixture
def base():
    return torch.from_numpy(np.random.default_rng(0).normal(size=(7, 5))).float()


@pytest.fixture
def models(base):
    draw = np.random.default_rng(1)
    return [base + torch.from_numpy(0.3 * draw.normal(size=(7, 5))).float() for _ in range(4)]


def exact(*tensors):
    return [tensor.numpy().astype(np.float64) for tensor in tensors]


def close(tensor, array, tolerance=1e-5):
    np.testing.assert_allclose(tensor.numpy(), array, rtol=tolerance, atol=tolerance)
    return True


# task arithmetic and linear


def test_task_arithmetic_with_weights_one_over_n_is_the_average(base, models):
    assert close(task_arithmetic(base, models, 0.25), np.mean(exact(*models), axis=0))


def test_task_arithmetic_with_one_model_is_an_interpolation(base, models):
    b, m = exact(base, models[0])
    assert close(task_arithmetic(base, models[:1], 0.37), 0.63 * b + 0.37 * m)
    assert close(task_arithmetic(base, models[:1], 1.0, lambda_=0.37), 0.63 * b + 0.37 * m)


def test_task_arithmetic_normalized_divides_by_the_sum_of_weights(base, models):
    b, *ms = exact(base, *models)
    average = sum(w * (m - b) for w, m in zip([1, 2, 3, 4], ms, strict=True)) / 10
    merged = task_arithmetic(base, models, [1, 2, 3, 4], normalize=True)
    assert close(merged, b + average)


def test_weights_that_cancel_are_not_divided_by(base, models):
    b, m, n = exact(base, *models[:2])
    vanishing = task_arithmetic(base, models[:2], [4e-9, 5e-9], normalize=True)
    assert close(vanishing, b)
    merged = task_arithmetic(base, models[:2], [0.5, -0.5], normalize=True)
    assert close(merged, b + 0.5 * (m - n))


def test_linear_is_the_weighted_average(models):
    ms = exact(*models)
    assert close(linear(models, [1.0, 2.0, 3.0, 4.0]), np.average(ms, axis=0, weights=[1, 2, 3, 4]))
    assert close(linear(models, 0.5, normalize=False), 0.5 * np.sum(ms, axis=0))
    assert torch.equal(linear(models, [0.0, 1.0, 0.0, 0.0]), models[1])


def test_linear_refuses_weights_whose_sum_is_zero(models):
    with pytest.raises(UserError, match=r"linear: expected weights whose sum is not 0, but got"):
        linear(models[:2], [0.5, -0.5])
    assert torch.equal(linear(models[:2], 0.0, normalize=False), torch.zeros(7, 5))


@pytest.mark.parametrize(
    "nothing",
    [
        {"weight": 0.7, "lambda_": 0.0},
        {"weight": [0.0, 0.0]},
        {"weight": [0.0, 0.5], "density": [1.0, 0.0]},
    ],
)
@pytest.mark.parametrize(
    "method",
    [
        *[task_arithmetic, ties, dare_linear, dare_ties],
        *[della, della_linear, breadcrumbs, breadcrumbs_ties, mask_merge],
    ],
)
def test_the_base_comes_back_to_the_bit_if_nothing_is_added(method, nothing, base, models):
    base[0, 0] = -0.0
    if method is task_arithmetic and "density" in nothing:
        pytest.skip("it has no density")
    chance = {"random": DRAW} if "random" in method.__annotations__ else {}
    merged = method(base, models[:2], **nothing, **chance)
    assert torch.equal(merged.view(torch.int32), base.view(torch.int32))


def test_passthrough_is_the_model_scaled(models):
    assert torch.equal(passthrough(models[:1]), models[0])
    assert close(passthrough(models[:1], scale=-1.5), -1.5 * exact(models[0])[0])


@pytest.mark.parametrize(
    "merge",
    [
        lambda base, model: slerp(base, [model], 0.0),
        lambda base, model: slerp(base, [model], 1.0),
        lambda base, model: passthrough([model]),  # noqa: ARG005
        lambda base, model: linear([model, base], [1.0, 0.0]),
        lambda base, model: ties(base, [model], 1.0, lambda_=0.0),
        lambda base, model: task_arithmetic(base, [model], 0.0),
        lambda base, model: dare_linear(base, [model], 1.0, random=DRAW),
        lambda base, model: wise_ft(base, [model], 0.0),
        lambda base, model: wise_ft(base, [model], 1.0),
        lambda base, model: consensus_ta(base, [model], alpha=0.0),
        lambda base, model: magnitude_prune([model]),  # noqa: ARG005
        lambda base, model: karcher([model]),  # noqa: ARG005
        lambda base, model: multislerp(base, [model], 0.5),
    ],
)
def test_the_result_is_a_new_tensor_even_if_nothing_is_computed(merge, base, models):
    merged = merge(base, models[0])
    assert merged.data_ptr() not in (base.data_ptr(), models[0].data_ptr())


# slerp


def slerp_reference(a, b, t):
    cosine = a.ravel() @ b.ravel() / (np.linalg.norm(a) * np.linalg.norm(b))
    angle = np.arccos(cosine)
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_slerp_is_the_textbook_formula(base, t):
    other = torch.from_numpy(np.random.default_rng(3).normal(size=(7, 5))).float()
    assert close(slerp(base, [other], t), slerp_reference(*exact(base, other), t))


def test_slerp_ends_are_the_models_to_the_bit(base, models):
    assert torch.equal(slerp(base, models[:1], 0.0), base)
    assert torch.equal(slerp(base, models[:1], 1.0), models[0])


def test_slerp_of_equal_norms_keeps_the_norm():
    a, b = torch.zeros(6), torch.zeros(6)
    a[0], b[1] = 2.0, 2.0
    assert slerp(a, [b], 0.3).norm().item() == pytest.approx(2.0, abs=1e-6)


def test_slerp_of_nearly_parallel_and_of_opposite_tensors_is_a_straight_line(base):
    b = exact(base)[0]
    assert close(slerp(base, [1.5 * base], 0.3), 0.7 * b + 0.3 * 1.5 * b)
    assert close(slerp(base, [-base], 0.3), 0.4 * b)


def test_slerp_with_a_zero_tensor_is_finite_and_starts_at_right_angles(base):
    # no direction: the angle is 90 degrees, so the base's share at the middle is sin(45 degrees)
    assert close(slerp(base, [torch.zeros_like(base)], 0.5), np.sqrt(0.5) * exact(base)[0])


def test_slerp_in_blocks_agrees_with_float64():
    draw = np.random.default_rng(4)
    a, b = (torch.from_numpy(draw.normal(size=2**20 + 77)).float() for _ in range(2))
    assert close(slerp(a, [b], 0.4), slerp_reference(*exact(a, b), 0.4), tolerance=1e-5)


# TIES


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


# DARE


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


# Model Stock


def test_model_stock_of_identical_models_is_that_model(base, models):
    assert close(model_stock(base, [models[0]] * 3), exact(models[0])[0])


def test_model_stock_of_deltas_at_right_angles_is_the_base():
    base = torch.tensor([1.0, 2.0, 3.0])
    models = [base + torch.tensor([1.0, 0.0, 0.0]), base + torch.tensor([0.0, 2.0, 0.0])]
    assert torch.equal(model_stock(base, models), base)


def test_model_stock_at_sixty_degrees_goes_two_thirds_of_the_way():
    base = torch.zeros(2)
    models = [torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.75**0.5])]
    assert close(model_stock(base, models), 2 / 3 * np.array([0.75, 0.75**0.5 / 2]))


def test_model_stock_finds_the_foot_of_the_perpendicular_under_its_assumptions():
    # w_i = mu + r e_i with e_i orthonormal and mu - w_0 at right angles to them (Jang 2024, §4)
    draw = np.random.default_rng(5)
    q = np.linalg.qr(draw.normal(size=(50, 50)))[0]
    w0 = draw.normal(size=50)
    mu = w0 + 1.7 * q[0]
    w = [mu + 0.9 * q[i + 1] for i in range(3)]
    average = np.mean(w, axis=0)
    t = (mu - w0) @ (average - w0) / ((average - w0) @ (average - w0))
    merged = model_stock(
        torch.from_numpy(w0).float(), [torch.from_numpy(point).float() for point in w]
    )
    assert close(merged, t * average + (1 - t) * w0)


def test_model_stock_row_by_row_is_model_stock_of_each_row(base, models):
    merged = model_stock(base, models, filter_wise=True)
    for row in range(7):
        alone = model_stock(base[row], [model[row] for model in models])
        torch.testing.assert_close(merged[row], alone)


def test_model_stock_of_exactly_opposite_models_is_the_base():
    base = torch.zeros(3)
    delta = torch.tensor([1.0, 2.0, 2.0])
    assert torch.equal(model_stock(base, [delta, -delta]), base)


# NuSLERP, Multi-SLERP, Karcher mean


def turned(base, degrees, length=1.0, seed=6):
    """A tensor at an angle to `base`, of `length` times its norm."""
    other = torch.from_numpy(np.random.default_rng(seed).normal(size=tuple(base.shape))).float()
    across = other - (other * base).sum() / base.square().sum() * base
    across *= base.norm() / across.norm()
    angle = np.deg2rad(degrees)
    return length * (np.cos(angle) * base + np.sin(angle) * across)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_nuslerp_without_a_base_is_slerp_at_the_share_of_the_second_weight(base, share):
    other = turned(base, 70, length=1.3)
    merged = nuslerp(None, [base, other], [2 * (1 - share), 2 * share])
    assert close(merged, slerp_reference(*exact(base, other), share))


def test_nuslerp_with_a_base_turns_the_deltas(base, models):
    b, m, n = exact(base, *models[:2])
    merged = nuslerp(base, models[:2], [0.6, 0.2])
    assert close(merged, b + slerp_reference(m - b, n - b, 0.25))


def test_nuslerp_by_rows_and_by_columns_is_nuslerp_of_each(base, models):
    by_last = nuslerp(base, models[:2], [0.6, 0.2], nuslerp_flatten=False)
    by_first = nuslerp(base, models[:2], [0.6, 0.2], nuslerp_flatten=False, nuslerp_row_wise=True)
    for i in range(7):
        alone = nuslerp(base[i], [model[i] for model in models[:2]], [0.6, 0.2])
        torch.testing.assert_close(by_last[i], alone)
    for i in range(5):
        alone = nuslerp(base[:, i], [model[:, i] for model in models[:2]], [0.6, 0.2])
        torch.testing.assert_close(by_first[:, i], alone)


def test_nuslerp_of_parallel_opposite_or_weightless_models_is_finite(base):
    (b,) = exact(base)
    assert close(nuslerp(None, [base, 3 * base], 0.5), 2 * b)
    assert close(nuslerp(None, [base, -base], [3.0, 1.0]), 0.5 * b)
    assert close(nuslerp(base, [base, base], 0.5), b)
    assert close(nuslerp(None, [base, 3 * base], [0.5, -0.5]), 2 * b)


def test_multislerp_of_two_models_of_one_length_halfway_is_slerp(base):
    other = turned(base, 50)
    merged = multislerp(None, [base, other], 0.5)
    assert close(merged, slerp_reference(*exact(base, other), 0.5))


def test_multislerp_of_directions_in_one_line_averages_lengths(base):
    (b,) = exact(base)
    assert close(multislerp(None, [base, 2 * base, 6 * base], 1.0), 3 * b)


def test_multislerp_of_one_model_is_that_model(base, models):
    assert torch.equal(multislerp(base, models[:1], 0.3), models[0])


def test_multislerp_where_directions_cancel_is_the_weighted_sum(base):
    zeros = torch.zeros_like(base)
    assert close(multislerp(zeros, [base, -2 * base], [0.5, 0.5]), -0.5 * exact(base)[0])
    # a tensor that no model has changed
    assert torch.equal(multislerp(base, [base] * 3, 1.0), base)


def test_multislerp_refuses_weights_whose_sum_is_zero(base, models):
    with pytest.raises(UserError, match="multislerp: expected weights whose sum is not 0"):
        multislerp(base, models[:2], [0.5, -0.5])
    finite = multislerp(base, models[:2], [0.5, -0.5], normalize_weights=False)
    assert bool(torch.isfinite(finite).all())


@pytest.mark.parametrize("length", [1.0, 2.5])
def test_karcher_of_two_models_is_the_middle_of_the_arc(base, length):
    other = turned(base, 80, length)
    b, o = exact(base, other)
    middle = slerp_reference(b / np.linalg.norm(b), o / np.linalg.norm(o), 0.5)
    average = (np.linalg.norm(b) + np.linalg.norm(o)) / 2
    assert close(karcher([base, other]), average * middle)


def test_karcher_is_where_the_ways_to_all_models_cancel(base):
    # the defining property: at the mean, the logarithms of the directions sum to zero
    points = [
        turned(base, degrees, seed=seed) for seed, degrees in enumerate([20, 60, 100, 75], start=10)
    ]
    units = [p.ravel() / np.linalg.norm(p) for p in exact(*points)]
    (mean,) = exact(karcher(points, max_iter=50, tol=1e-8))
    mean = mean.ravel() / np.linalg.norm(mean)
    angles = [np.arccos(mean @ unit) for unit in units]
    ways = [a / np.sin(a) * (u - np.cos(a) * mean) for a, u in zip(angles, units, strict=True)]
    assert np.linalg.norm(np.sum(ways, axis=0)) < 1e-5
    assert np.linalg.norm(ways[0]) > 0.1
    once = karcher(points, max_iter=0)
    assert not torch.allclose(once, karcher(points))


def test_karcher_of_identical_and_of_zero_models_is_theirs(base, models):
    assert close(karcher([models[0]] * 3), exact(models[0])[0])
    assert close(karcher([base, torch.zeros_like(base)]), exact(base)[0] / 2)  # half its length
    assert torch.equal(karcher([torch.zeros(3)] * 2), torch.zeros(3))
    assert torch.equal(karcher(models[:1]), models[0])
    assert bool(torch.isfinite(karcher([base, base, 2 * base], tol=0.0)).all())


# DELLA and breadcrumbs


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


# SCE


def sce_reference(base, models, topk, select_applies_to):
    deltas = np.stack([model - base for model in models])
    variance = deltas.var(axis=0)
    count = int(topk * np.count_nonzero(variance))
    mask = np.zeros(variance.size)
    mask[np.argsort(-variance.ravel(), kind="stable")[:count]] = 1
    selected = deltas * mask.reshape(variance.shape) if topk < 1 else deltas
    shares = (selected**2).reshape(len(models), -1).mean(axis=1)
    shares /= shares.sum()
    used = selected if select_applies_to == "deltas" else deltas
    sign = np.where(used.sum(axis=0) >= 0, 1, -1)
    weights = shares[:, None, None] * (np.sign(used) == sign)
    return base + (weights * used).sum(axis=0) / np.maximum(weights.sum(axis=0), 1e-6)


@pytest.mark.parametrize("applies", ["deltas", "weights"])
@pytest.mark.parametrize("topk", [0.1, 0.5, 1.0])
def test_sce_is_its_definition(base, models, topk, applies):
    b, *ms = exact(base, *models)
    assert close(sce(base, models, topk, applies), sce_reference(b, ms, topk, applies))


def test_sce_of_one_or_of_identical_models_is_that_model(base, models):
    assert close(sce(base, models[:1]), exact(models[0])[0])
    assert close(sce(base, [models[0]] * 3), exact(models[0])[0])


def test_selection_on_identical_models_leaves_the_base_or_by_weights_the_model(base, models):
    same = [models[0]] * 3
    assert torch.equal(sce(base, same, 0.5), base)
    assert close(sce(base, same, 0.5, "weights"), exact(models[0])[0])


def test_sce_weighs_small_deltas_as_it_weighs_large_ones(models):
    zeros = torch.zeros(7, 5)
    merged = sce(zeros, models)
    torch.testing.assert_close(
        sce(zeros, [1e-4 * m for m in models]), 1e-4 * merged, atol=0, rtol=1e-4
    )


# RAM, NearSwap, Arcee fusion


def test_ram_averages_shared_changes_and_keeps_lone_ones_whole():
    base = torch.tensor([1.0, 1.0, 1.0, 1.0])
    models = [torch.tensor([2.0, 3.0, 1.0, 1.0]), torch.tensor([4.0, 1.0, 0.0, 1.0])]
    assert ram(base, models).tolist() == [3.0, 3.0, 0.0, 1.0]
    # one of each model's two changes is shared: gain 1 + 0.5 * min(1, 1/1)
    assert ramplus_tl(base, models, r=0.5, alpha=1.0).tolist() == [3.0, 4.0, -0.5, 1.0]
    assert ramplus_tl(base, models, r=0.5, alpha=0.2).tolist() == pytest.approx([3, 3.2, -0.1, 1])


def test_ram_of_dense_deltas_is_the_average_and_of_disjoint_ones_the_sum(base, models):
    assert close(ram(base, models, epsilon=0.0), np.mean(exact(*models), axis=0))
    masks = [torch.arange(35).reshape(7, 5) % 4 == i for i in range(4)]
    apart = [torch.where(mask, model, base) for mask, model in zip(masks, models, strict=True)]
    together = task_arithmetic(base, apart, 1.0)
    assert close(ram(base, apart), exact(together)[0])
    assert close(ramplus_tl(base, apart), exact(together)[0])  # nothing shared, no gain


def test_ramplus_without_gain_is_ram(base, models):
    merged = ramplus_tl(base, models, r=0.0, epsilon=0.2)
    torch.testing.assert_close(merged, ram(base, models, epsilon=0.2))


def test_ramplus_with_an_epsilon_of_zero_is_finite(base, models):
    assert bool(torch.isfinite(ramplus_tl(base, [models[0]] * 2, epsilon=0.0)).all())


def test_nearswap_moves_every_element_by_t_or_less_onto_the_model(base, models):
    b, m = exact(base, models[0])
    merged = nearswap(base, models[:1], 0.1)
    assert close(merged, b + np.clip(m - b, -0.1, 0.1))
    assert torch.equal(nearswap(base, models[:1], 0.0), base)
    assert torch.equal(nearswap(base, models[:1], 10.0), models[0])


def arcee_reference(base, model):
    def softmax(x):
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)

    p, q = softmax(model), softmax(base)
    importance = np.abs(model - base) * (p * np.log(p / q)).sum(axis=-1, keepdims=True)
    q1, q2, q3 = (np.quantile(importance, q, method="lower") for q in (0.25, 0.5, 0.75))
    return np.where(importance >= q2 + 1.5 * (q3 - q1), model, base)


def test_arcee_fusion_takes_the_outliers(base, models):
    for model in models:
        merged = arcee_fusion(base, [model])
        assert close(merged, arcee_reference(*exact(base, model)))
        assert 0 < int((merged != base).sum()) < 12


def test_arcee_fusion_of_a_large_tensor_takes_quartiles_of_a_sample():
    draw = np.random.default_rng(7)
    base = draw.normal(size=(2, 700_000))
    model = base + 0.1 * draw.normal(size=base.shape)
    tensors = [torch.from_numpy(array).float() for array in (base, model)]
    merged = arcee_fusion(tensors[0], tensors[1:])
    taken = (merged != tensors[0]).numpy()
    expected = arcee_reference(base, model) != base
    assert (taken != expected).mean() < 1e-3
    assert 0.01 < taken.mean() < 0.5


def test_the_sample_has_one_index_of_each_stretch():
    for count in (1_000_001, 2**32 + 5):
        indices = sampled(count)
        stretch = count / 1_000_000
        edges = torch.arange(1_000_000, dtype=torch.float64) * stretch
        assert bool((indices > edges - 1).all())
        assert bool((indices < edges + stretch).all())


# beyond mergekit: WiSE-FT, consensus, VaRM, mask merging, pruning


def test_wise_ft_is_task_arithmetic_of_one_model_and_exact_at_its_ends(base, models):
    merged = wise_ft(base, models[:1], 0.37)
    torch.testing.assert_close(merged, task_arithmetic(base, models[:1], 0.37))
    assert close(merged, 0.63 * exact(base)[0] + 0.37 * exact(models[0])[0])
    assert torch.equal(wise_ft(base, models[:1], 0.0), base)
    assert torch.equal(wise_ft(base, models[:1], 1.0), models[0])
    other_way = wise_ft(models[0], [base], 0.63)
    torch.testing.assert_close(merged, other_way)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_a_consensus_of_none_is_everything_and_of_more_than_all_nothing(base, models, alpha):
    merged = consensus_ta(base, models, k=0, alpha=alpha)
    torch.testing.assert_close(merged, task_arithmetic(base, models, 1.0, lambda_=alpha))
    merged = consensus_ties(base, models, density=0.4, k=0, alpha=alpha)
    trimmed = ties(base, models, 1.0, density=0.4, aggregate="sum", lambda_=alpha)
    torch.testing.assert_close(merged, trimmed)
    for method in (consensus_ta, consensus_ties):
        assert torch.equal(method(base, models, k=5, alpha=alpha), base)


def test_a_consensus_of_one_model_is_that_model(base, models):
    assert torch.equal(
        consensus_ta(base, models[:1], k=1, lam=3.0), task_arithmetic(base, models[:1], 1.0)
    )


def test_a_consensus_is_its_definition(base, models):
    b, *ms = exact(base, *models)
    deltas = np.stack(ms) - b
    total = deltas.sum(axis=0)
    lam = np.array([0.2, 0.4, 0.6, 0.3])
    votes = (np.abs(deltas) >= lam[:, None, None] * np.abs(total - deltas)).sum(axis=0)
    for k in (2, 3, 4):
        merged = consensus_ta(base, models, k=k, lam=[0.2, 0.4, 0.6, 0.3], alpha=0.7)
        assert close(merged, b + 0.7 * total * (votes >= k))
        assert 0 < (votes >= k).mean() < 1


def test_changes_of_disjoint_models_are_all_selfish(base, models):
    masks = [torch.arange(35).reshape(7, 5) % 4 == i for i in range(4)]
    apart = [torch.where(mask, model, base) for mask, model in zip(masks, models, strict=True)]
    together = exact(task_arithmetic(base, apart, 1.0))[0]
    assert close(consensus_ta(base, apart, k=1, lam=1.0), together)  # each is served
    assert torch.equal(consensus_ta(base, apart, k=2, lam=1.0), base)


def test_a_larger_lam_keeps_fewer_elements(base, models):
    masks = [
        consensus_ta(base, models, k=2, lam=lam) != base for lam in (0.0, 0.2, 0.4, 0.6, 1.0, 5.0)
    ]
    for more, fewer in pairwise(masks):
        assert bool((more | ~fewer).all())
    assert bool(masks[0].all())
    assert not masks[-1].all()


def test_varm_weighs_models_by_how_much_they_changed(base, models):
    b, m = exact(base, models[0])
    three = base + 3 * (models[0] - base)
    assert close(varm(base, [models[0], three]), b + (0.1 + 0.9 * 3) * (m - b))
    b, *ms = exact(base, *models)
    energy = np.array([np.mean((m - b) ** 2) for m in ms])
    assert close(varm(base, models), np.average(ms, axis=0, weights=energy))


def test_varm_of_one_or_identical_models_is_that_model_and_of_none_changed_the_base(base, models):
    assert close(varm(base, models[:1]), exact(models[0])[0])
    assert close(varm(base, [models[0]] * 3), exact(models[0])[0])
    assert torch.equal(varm(base, [base] * 3), base)


@pytest.mark.parametrize("masks", ["union", "intersect", "vote"])
def test_mask_merging_is_its_definition(base, models, masks):
    b, *ms = exact(base, *models)
    deltas = np.stack(ms) - b
    changed = []
    for delta in deltas:
        lowest = np.sort(np.abs(delta).ravel())[-int(0.4 * 35)]
        changed.append(np.abs(delta) >= lowest)
    count = np.sum(changed, axis=0)
    mask = {"union": count >= 1, "intersect": count == 4, "vote": count > 2}[masks]
    weights = np.array([0.3, 0.7, -0.2, 0.4])
    mixed = (weights[:, None, None] * deltas).sum(axis=0)
    merged = mask_merge(base, models, list(weights), density=0.4, masks=masks, lambda_=0.6)
    assert close(merged, b + 0.6 * mask * mixed)
    merged = mask_merge(base, models, list(weights), density=0.4, masks=masks, normalize=True)
    assert close(merged, b + mask * mixed / weights.sum())
    whole = mask_merge(base, models, list(weights), masks=masks)
    assert torch.equal(whole, task_arithmetic(base, models, list(weights)))


def test_an_intersection_lies_in_a_vote_and_a_vote_in_a_union(base, models):
    inner, middle, outer = (
        mask_merge(base, models, 0.5, density=0.5, masks=masks) != base
        for masks in ("intersect", "vote", "union")
    )
    assert bool((middle | ~inner).all())
    assert bool((outer | ~middle).all())
    assert int(inner.sum()) < int(middle.sum()) < int(outer.sum())
    one = mask_merge(base, models[:1], 1.0, density=0.5, masks="vote")
    torch.testing.assert_close(one, base + trim(models[0] - base, 0.5))


def test_pruning_keeps_the_largest_weights(models):
    pruned = magnitude_prune(models[:1], 0.4)
    (m,), (p,) = exact(models[0]), exact(pruned)
    assert np.count_nonzero(p) == 14
    np.testing.assert_array_equal(p[p != 0], m[p != 0])
    assert np.abs(p[p != 0]).min() >= np.abs(m[p == 0]).max()
    assert torch.equal(magnitude_prune([pruned], 0.4), pruned)
    assert torch.equal(magnitude_prune(models[:1]), models[0])
    assert torch.equal(magnitude_prune(models[:1], 0.0), torch.zeros(7, 5))


def test_a_curve_without_weights_is_the_straight_line_and_exact_at_its_ends(models):
    first, second = models[:2]
    weights = {f"{letter}{j}": 0.1 * j - 0.7 for letter in "ab" for j in range(1, 6)}
    for t, end in ((0.0, first), (1.0, second)):
        assert torch.equal(curve(first, [second], t, **weights), end)
    line = curve(first, [second], 0.3)
    torch.testing.assert_close(line, linear([first, second], [0.7, 0.3], normalize=False))
    same = curve(first, [second], 0.3, a1=0.4, a2=0.4, a3=0.4, a4=0.4, a5=0.4)
    torch.testing.assert_close(same, line)  # the mean of the five is taken off


def test_a_curve_is_the_papers_formula_once_its_weights_sum_to_0(models):
    first, second = (m.double().numpy() for m in models[:2])
    a, b = np.array([0.3, -0.1, 0.2, -0.5, 0.1]), np.array([0.5, 0.0, -0.25, -0.25, 0.0])
    assert abs(a.sum()) < 1e-12
    assert abs(b.sum()) < 1e-12
    omega = np.pi / 2 * (4 * np.arange(5) + 1)
    for t in (0.2, 0.5, 0.9):
        expected = (1 - t + a @ np.cos(omega * t)) * first + (t + b @ np.sin(omega * t)) * second
        weights = {f"a{j + 1}": a[j] for j in range(5)} | {f"b{j + 1}": b[j] for j in range(5)}
        merged = curve(models[0].double(), [models[1].double()], t, **weights)
        np.testing.assert_allclose(merged.numpy(), expected, atol=1e-12)
