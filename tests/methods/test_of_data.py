"""RegMean, Fisher and UBGM: against numpy in float64, and their papers' identities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.core.errors import UserError
from evomerge.methods import concrete, fisher, regmean, task_arithmetic, ubgm
from evomerge.methods.of_data import Gram, Squares

SEEDS = range(4)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def inputs_of(seed: int, count: int = 40, width: int = 5) -> Tensor:
    return drawn(seed, count, width) @ drawn(seed + 50, width, width)


def gram_of(x: Tensor) -> Gram:
    return Gram(x.T @ x / len(x))


def squares_of(seed: int, *shape: int) -> Squares:
    values = drawn(seed, *shape).square()
    return Squares(values, float(values.norm()), float(values.mean()))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shrink", [1.0, 0.9, 0.0])
def test_regmean_is_the_papers_formula(seed: int, shrink: float) -> None:
    weights = [1.0, 0.5, 2.0]
    models = [drawn(seed + i, 4, 5) for i in range(3)]
    grams = [gram_of(inputs_of(seed + 10 * i)) for i in range(3)]
    left, right = np.zeros((5, 5)), np.zeros((5, 4))
    for w, model, one in zip(weights, models, grams, strict=True):
        g = one.matrix.double().numpy()
        g = shrink * g + (1 - shrink) * np.diag(np.diag(g))
        left += w * g
        right += w * g @ model.double().numpy().T
    wanted = np.linalg.solve(left, right).T
    given = regmean(None, models, weight=weights, shrink=shrink, ridge=0.0, gram=grams)
    np.testing.assert_allclose(given.numpy(), wanted, rtol=2e-4, atol=2e-5)
    across = [Gram(one.matrix, transposed=True) for one in grams]
    turned = regmean(
        None, [m.T for m in models], weight=weights, shrink=shrink, ridge=0.0, gram=across
    )
    assert torch.allclose(turned, given.T, atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_regmeans_error_on_real_inputs_is_at_most_the_means_and_its_slope_is_zero(
    seed: int,
) -> None:
    models = [drawn(seed + i, 4, 5) for i in range(2)]
    xs = [inputs_of(seed + 10 * i) for i in range(2)]

    def error(merged: Tensor) -> Tensor:
        pairs = zip(models, xs, strict=True)
        return sum(((x @ (merged - m).T) ** 2).sum() / len(x) for m, x in pairs)  # type: ignore[return-value]

    exact = {"shrink": 1.0, "ridge": 0.0, "gram": [gram_of(x) for x in xs]}
    merged = regmean(None, models, **exact).requires_grad_()
    assert error(merged) <= error(sum(models) / 2)  # type: ignore[operator]
    error(merged).backward()
    assert merged.grad is not None
    assert float(merged.grad.abs().max()) < 1e-3 * float(error(merged.detach()))


def test_regmean_of_equal_or_no_matrices_is_the_mean() -> None:
    models = [drawn(i, 4, 5) for i in range(3)]
    mean = (models[0] + models[1] + models[2]) / 3
    same, plain = gram_of(inputs_of(1)), Gram(torch.eye(5))
    for grams in ([same] * 3, [plain] * 3, None, [same, None, same], [Gram(torch.zeros(5, 5))] * 3):
        torch.testing.assert_close(regmean(None, models, gram=grams), mean)


def test_regmean_of_one_model_three_times_is_that_model_to_the_bit() -> None:
    model = drawn(0, 4, 5)
    grams = [gram_of(inputs_of(i)) for i in range(3)]
    assert torch.equal(regmean(None, [model] * 3, gram=grams), model)


def test_regmean_leaves_an_expert_that_saw_no_tokens_to_the_models_that_saw_some() -> None:
    models = [drawn(0, 4, 5), drawn(1, 4, 5)]
    grams = [Gram(torch.zeros(5, 5)), gram_of(inputs_of(3))]
    torch.testing.assert_close(
        regmean(None, models, gram=grams, ridge=0.0), models[1], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_regmean_follows_a_permutation_of_the_inputs(seed: int) -> None:
    models = [drawn(seed + i, 4, 5) for i in range(2)]
    grams = [gram_of(inputs_of(seed + 10 * i)) for i in range(2)]
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    moved = [Gram(one.matrix[order][:, order]) for one in grams]
    given = regmean(None, [m[:, order] for m in models], gram=moved)
    torch.testing.assert_close(given, regmean(None, models, gram=grams)[:, order])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_common_scale_of_the_matrices_does_nothing(seed: int) -> None:
    models = [drawn(seed + i, 4, 5) for i in range(2)]
    grams = [gram_of(inputs_of(seed + 10 * i)) for i in range(2)]
    larger = [Gram(one.matrix * 1000) for one in grams]
    torch.testing.assert_close(
        regmean(None, models, gram=larger), regmean(None, models, gram=grams)
    )


def test_regmean_without_an_inverse_names_the_remedy() -> None:
    models, grams = [torch.zeros(1, 2), torch.ones(1, 2)], [gram_of(torch.ones(1, 2))] * 2
    with pytest.raises(UserError, match="expected ridge above 0 or shrink below 1"):
        regmean(None, models, shrink=1.0, ridge=0.0, gram=grams)


@pytest.mark.parametrize("transposed", [False, True])
def test_regmean_is_the_same_to_the_bit_where_products_are_recalled(transposed: bool) -> None:
    models = [drawn(i, 4, 5).T if transposed else drawn(i, 4, 5) for i in range(3)]
    grams = [Gram(gram_of(inputs_of(i)).matrix, transposed) for i in range(3)]
    memory: dict[Any, Tensor] = {}
    made: list[str] = []

    def recall(name: str, version: Any, make: Any) -> Tensor:
        if (name, version) not in memory:
            made.append(name)
            memory[name, version] = make()
        return memory[name, version]

    for weight, shrink, scale in (
        ([1.0, 1.0, 1.0], 0.9, 1.0),
        ([1.0, 0.2, 3.0], 0.7, 1.5),
        ([1.0, 0.2, 3.0], 0.7, 0.8),
    ):
        keys: Any = {"weight": weight, "shrink": shrink, "lambda_": scale, "gram": grams}
        recalled = regmean(drawn(9, *models[0].shape), models, recall=recall, **keys)
        assert torch.equal(recalled, regmean(drawn(9, *models[0].shape), models, **keys))
        recalled.zero_()  # what is kept is not handed out
    assert made == ["fit", "product 1", "product 2", "fit"]


def method_cases() -> list[Any]:
    grams = [gram_of(inputs_of(i)) for i in range(2)]
    diagonals = [squares_of(i, 4, 5) for i in range(2)]
    return [(regmean, {"gram": grams}), (fisher, {"fisher": diagonals})]


@pytest.mark.parametrize(("method", "given"), method_cases(), ids=["regmean", "fisher"])
def test_lambda_moves_from_the_base_along_the_merge_and_weight_0_leaves_a_model_out(
    method: Any, given: Any
) -> None:
    base, models = drawn(9, 4, 5), [drawn(0, 4, 5), drawn(1, 4, 5)]
    whole = method(base, models, **given)
    for scale in (0.0, 0.5, 1.6):
        torch.testing.assert_close(
            method(base, models, lambda_=scale, **given), base + scale * (whole - base)
        )
    torch.testing.assert_close(
        method(base, models, weight=[0.0, 2.0], **given), models[1], rtol=1e-4, atol=1e-5
    )
    assert torch.equal(method(base, models, weight=0.0, **given), base)
    first = method(base, models, weight=[1.0, 3.0], **given)
    torch.testing.assert_close(first, method(base, models, weight=[2.0, 6.0], **given))


@pytest.mark.parametrize("seed", SEEDS)
def test_fisher_is_the_papers_formula_with_a_relative_floor(seed: int) -> None:
    models = [drawn(seed + i, 3, 4).double() for i in range(3)]
    of = [squares_of(seed + 20 + i, 3, 4) for i in range(3)]
    weights, floor = [1.0, 2.0, 0.5], 0.01
    parts = [
        w * (s.values.double() + floor * s.mean) / s.norm for w, s in zip(weights, of, strict=True)
    ]
    wanted = sum(p * m for p, m in zip(parts, models, strict=True)) / sum(parts)
    given = fisher(None, models, weight=weights, floor=floor, fisher=of)
    torch.testing.assert_close(given, wanted)
    lowest, highest = (torch.stack(models).amin(0), torch.stack(models).amax(0))
    assert bool(((given >= lowest - 1e-9) & (given <= highest + 1e-9)).all())


def test_fishers_identities() -> None:
    models = [drawn(i, 3, 4) for i in range(2)]
    of = [squares_of(20 + i, 3, 4) for i in range(2)]
    mean = (models[0] + models[1]) / 2
    torch.testing.assert_close(fisher(None, models, fisher=[of[0]] * 2), mean)
    assert torch.equal(fisher(None, [models[0]] * 2, fisher=of), models[0])
    scaled = Squares(of[0].values * 7, of[0].norm * 7, of[0].mean * 7)
    torch.testing.assert_close(
        fisher(None, models, fisher=[scaled, of[1]]), fisher(None, models, fisher=of)
    )
    none = Squares(torch.zeros(3, 4), 0.0, 0.0)
    torch.testing.assert_close(fisher(None, models, fisher=[none, of[1]]), models[1])
    torch.testing.assert_close(fisher(None, models, fisher=[none, none]), mean)


def test_ubgm_runs_from_task_arithmetic_to_fisher() -> None:
    base, models = drawn(9, 3, 4), [drawn(0, 3, 4), drawn(1, 3, 4)]
    of = [squares_of(20 + i, 3, 4) for i in range(2)]
    none = Squares(torch.zeros(3, 4), 0.0, 0.0)
    plain = task_arithmetic(base, models, weight=[0.4, 0.7])
    steps = {"weight": [0.4, 0.7]}
    torch.testing.assert_close(ubgm(base, models, fisher=[none, none], **steps), plain)
    torch.testing.assert_close(ubgm(base, models, delta=1e9, fisher=of, **steps), plain)
    prior = Squares(torch.full((3, 4), 1e8), 1.0, 1.0)
    torch.testing.assert_close(ubgm(base, models, fisher=of, base_fisher=prior, **steps), plain)
    unscaled = [Squares(one.values, 1.0, one.mean) for one in of]
    torch.testing.assert_close(
        ubgm(base, models, delta=0.0, h0=0.0, fisher=of, base_fisher=prior),
        fisher(base, models, floor=0.0, fisher=unscaled),
    )
    alone = ubgm(base, models[:1], delta=0.3, fisher=of[:1], base_fisher=of[1])
    torch.testing.assert_close(alone, models[0])


def test_ubgm_is_the_papers_formula() -> None:
    base, models = drawn(9, 3, 4).double(), [drawn(i, 3, 4).double() for i in range(2)]
    of, prior = [squares_of(20 + i, 3, 4) for i in range(2)], squares_of(30, 3, 4)
    a, delta, h0 = [0.5, 1.5], 0.2, 0.3
    d = delta * (of[0].mean + of[1].mean) / 2
    h = [one.values.double() for one in of]
    shared = h0 * prior.values.double() + d
    below = shared + a[0] * h[0] + a[1] * h[1]
    wanted = base + sum(a[i] * (shared + h[i]) / below * (models[i] - base) for i in range(2))
    settings = {"weight": a, "delta": delta, "h0": h0}
    given = ubgm(base, models, fisher=of, base_fisher=prior, **settings)
    torch.testing.assert_close(given, wanted)


@pytest.mark.parametrize("seed", SEEDS)
def test_concrete_is_task_arithmetic_of_masked_deltas_and_plain_without_a_mask(seed: int) -> None:
    base, *models = (drawn(seed + i, 4, 5) for i in range(3))
    masks = [drawn(seed + 10 + i, 4, 5).sigmoid() for i in range(2)]
    given = concrete(base, models, weight=[1.0, 0.5], lambda_=1.4, mask=masks)
    wanted = base.double().numpy()
    for w, model, mask in zip((1.0, 0.5), models, masks, strict=True):
        wanted = wanted + 1.4 * w * mask.double().numpy() * (model - base).double().numpy()
    np.testing.assert_allclose(given.numpy(), wanted, rtol=1e-5, atol=1e-6)
    plain = task_arithmetic(base, models, weight=[0.3, 0.5], lambda_=1.4)
    for mask in (None, [torch.ones(4, 5)] * 2):
        assert torch.equal(concrete(base, models, [0.3, 0.5], 1.4, mask), plain)
    assert torch.equal(concrete(base, models, weight=0.0, mask=masks), base)
