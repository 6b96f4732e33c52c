"""What the papers promise of methods that choose elements or models by a rule."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from evomerge.methods import (
    CounterRandom,
    arcee_fusion,
    consensus_ta,
    consensus_ties,
    magnitude_prune,
    mask_merge,
    model_stock,
    nearswap,
    ram,
    ramplus_tl,
    sce,
    task_arithmetic,
    ties,
    varm,
)
from evomerge.methods.arcee_fusion import sampled
from evomerge.methods.deltas import trim
from tests.methods.comparing import close, exact

DRAW = CounterRandom(seed=0, name="a.weight")


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
