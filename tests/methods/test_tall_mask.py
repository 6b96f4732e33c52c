"""TALL masks against the identities of their paper."""

import torch

from evomerge.methods import consensus_ta, tall_mask


def made(*shape, n=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=draw)
    return base, [base + torch.randn(shape, generator=draw) for _ in range(n)]


def test_the_only_model_is_served_whole():
    base, (model,) = made(40, n=1)
    torch.testing.assert_close(tall_mask(base, [model], lam=0.6), model)


def test_models_that_changed_other_elements_are_reconstructed_exactly():
    base, models = made(60)
    owner = torch.arange(60) % 3
    models = [torch.where(owner == i, model, base) for i, model in enumerate(models)]
    for i, model in enumerate(models):
        serve = [float(i == j) for j in range(3)]
        torch.testing.assert_close(tall_mask(base, models, serve=serve, lam=1.0), model)


def test_all_served_is_consensus_of_one():
    base, models = made(9, 7)
    expected = consensus_ta(base, models, k=1, lam=0.3)
    assert torch.equal(tall_mask(base, models, lam=0.3), expected)
    assert torch.equal(tall_mask(base, models, serve=0.0), base)


def test_a_mask_is_where_the_reconstruction_by_hand_says():
    base, models = torch.zeros(4), [torch.tensor([1.0, 1.0, 1.0, 0.1]), torch.tensor([2, -3, 0, 9])]
    # total 3 -2 1 9.1, |total - d_1| 2 3 0 9; at lam .4: 1 >= .8, 1 < 1.2, 1 >= 0, .1 < 3.6
    got = tall_mask(base, models, serve=[1.0, 0.0], lam=0.4)
    torch.testing.assert_close(got, torch.tensor([3.0, 0.0, 1.0, 0.0]))


def test_a_higher_threshold_serves_a_part_of_what_a_lower_one_does():
    base, models = made(500)
    masks = [
        tall_mask(base, models, serve=[1.0, 0.0, 0.0], lam=lam) != base for lam in (0.2, 0.4, 0.6)
    ]
    assert masks[0].sum() > masks[1].sum() > masks[2].sum() > 0
    assert not (masks[1] & ~masks[0]).any()
    assert not (masks[2] & ~masks[1]).any()
