"""What the papers promise, worked by hand or in float64 numpy."""

import numpy as np
import pytest
import torch

from evomerge.core.errors import UserError
from evomerge.methods import (
    CounterRandom,
    breadcrumbs,
    breadcrumbs_ties,
    consensus_ta,
    curve,
    dare_linear,
    dare_ties,
    della,
    della_linear,
    karcher,
    linear,
    magnitude_prune,
    mask_merge,
    multislerp,
    nuslerp,
    passthrough,
    slerp,
    task_arithmetic,
    ties,
    wise_ft,
)
from tests.methods.comparing import close, exact

DRAW = CounterRandom(seed=0, name="a.weight")


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


# DARE


# Model Stock


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


# SCE


# RAM, NearSwap, Arcee fusion


# beyond mergekit: WiSE-FT, consensus, VaRM, mask merging, pruning


def test_wise_ft_is_task_arithmetic_of_one_model_and_exact_at_its_ends(base, models):
    merged = wise_ft(base, models[:1], 0.37)
    torch.testing.assert_close(merged, task_arithmetic(base, models[:1], 0.37))
    assert close(merged, 0.63 * exact(base)[0] + 0.37 * exact(models[0])[0])
    assert torch.equal(wise_ft(base, models[:1], 0.0), base)
    assert torch.equal(wise_ft(base, models[:1], 1.0), models[0])
    other_way = wise_ft(models[0], [base], 0.63)
    torch.testing.assert_close(merged, other_way)


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
