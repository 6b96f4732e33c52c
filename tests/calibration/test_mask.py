"""Learned masks: their gradients against autograd, their loss, and builds by them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import evomerge
from evomerge.calibration import mask as learning
from evomerge.calibration.mask import drawn, gradients, learn, mask_of
from evomerge.calibration.rows import Row
from evomerge.core.errors import UserError
from evomerge.evaluate.model import load_model
from evomerge.recipe.recipe import Recipe
from tests.models import load, make_family

ANSWERS = {"a": ["w1 w2 w3 w1", "w5 w5 w9"], "b": ["w30 w8 w7", "w11 w12 w13 w14 w15"]}


def drawn_tensor(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(4))
def test_the_gradients_by_mask_and_shares_are_autograds(seed: int) -> None:
    """θ = base + m / mean(m) Σ s_i δ_i, and a loss of θ that is no sum of its elements' losses."""
    x, base, target = (drawn_tensor(seed + k, 5, 3) for k in range(3))
    deltas = [drawn_tensor(seed + 10 + k, 5, 3) for k in range(2)]
    shares = drawn_tensor(seed + 20, 2).requires_grad_()
    x.requires_grad_()
    m = torch.sigmoid(x / 0.5)
    total = shares[0] * deltas[0] + shares[1] * deltas[1]
    merged = base + m / m.mean() * total
    merged.retain_grad()
    ((merged @ target.T).tanh().sum() ** 2 + merged.square().sum()).backward()
    assert x.grad is not None
    assert merged.grad is not None
    assert shares.grad is not None
    by_x, by_shares = gradients(x.detach(), total.detach(), deltas, merged.grad)
    torch.testing.assert_close(by_x, x.grad, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(by_shares, shares.grad, rtol=1e-9, atol=1e-11)


def test_a_mask_has_mean_1_and_is_1_where_nothing_was_learned() -> None:
    assert float(mask_of(drawn_tensor(1, 40, 30)).mean()) == pytest.approx(1.0)
    torch.testing.assert_close(mask_of(torch.full((4, 3), 0.7)), torch.ones(4, 3))
    # far out, m is 1 and the merge is task arithmetic again
    torch.testing.assert_close(mask_of(torch.full((4, 3), 50.0)), torch.ones(4, 3))


def test_steps_look_at_other_rows_the_same_ones_when_it_is_done_again() -> None:
    rows = [Row(number, (1, 2, 3), 1) for number in range(100)]
    steps = [[row.number for row in drawn(rows, 3, step)] for step in range(3)]
    assert [len(set(step)) for step in steps] == [32, 32, 32]
    assert steps[0] != steps[1]
    assert steps == [[row.number for row in drawn(rows, 3, step)] for step in range(3)]
    assert len(drawn(rows[:5], 0, 0)) == 5


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("family")
    made = make_family(folder, "llama", scale=0.2)
    for name, texts in ANSWERS.items():
        lines = [json.dumps({"text": text}) for text in texts]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return {**made, "folder": str(folder)}


def recipe_of(family: dict[str, str], **keys: Any) -> Recipe:
    models = [{"model": family[n], "data": f"{family['folder']}/{n}.jsonl"} for n in "ab"]
    document = {"merge_method": "concrete", "base_model": family["base"], "models": models}
    return Recipe.from_dict({**document, "calibration": {"steps": 12}, **keys})


def loss_of(folder: Path) -> float:
    """The mean over all rows of a row's mean negative log-likelihood."""
    model, tokenizer = load_model(folder, "float32")
    losses = []
    for texts in ANSWERS.values():
        for text in texts:
            tokens = torch.tensor([tokenizer(text)["input_ids"]])
            losses.append(float(model(input_ids=tokens, labels=tokens).loss.detach()))
    return sum(losses) / len(losses)


def test_a_build_is_the_formula_and_fits_the_rows_better_than_task_arithmetic(
    family: dict[str, str], tmp_path: Path
) -> None:
    evomerge.build(recipe_of(family), tmp_path / "out")
    plain = {"merge_method": "task_arithmetic", "parameters": {"weight": 0.5}}
    models = [{"model": family[n]} for n in "ab"]
    plain |= {"base_model": family["base"], "models": models}
    evomerge.build(Recipe.from_dict(plain), tmp_path / "plain")
    assert loss_of(tmp_path / "out") < loss_of(tmp_path / "plain") - 0.1

    live, tokenizer = load_model(family["base"], "float32")
    base = load(family["base"])
    rows = [
        Row(i, tuple(tokenizer(text)["input_ids"]), 1)
        for texts in ANSWERS.values()
        for i, text in enumerate(texts, 1)
    ]
    read = [lambda name, n=n: load(family[n])[name].float() for n in ("base", "a", "b")]
    masks, shares = learn(live, list(base), read[0], read[1:], rows, 12, 0)
    merged = load(tmp_path / "out")
    assert masks.keys() == shares.keys() == base.keys()
    for name, tensor in merged.items():
        added = sum(
            share * (load(family[n])[name] - base[name])
            for n, share in zip("ab", shares[name], strict=True)
        )
        torch.testing.assert_close(tensor, base[name] + masks[name] * added, rtol=1e-5, atol=1e-6)
        assert float(masks[name].mean()) == pytest.approx(1.0, abs=1e-5)
    assert any(float(mask.std()) > 1e-3 for mask in masks.values())


def test_a_mask_is_learned_once_for_all_scales_of_it(
    family: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evomerge.build(recipe_of(family), tmp_path / "first")
    assert len(list((tmp_path / "cache" / "statistics").iterdir())) == 1
    monkeypatch.setattr(learning, "_backward", None)  # nothing is learned any more
    assert evomerge.build(recipe_of(family), tmp_path / "again") == first
    scaled = recipe_of(family, parameters={"lambda": 2.0})
    assert evomerge.build(scaled, tmp_path / "scaled") != first
    base, once, twice = (
        load(folder)["model.norm.weight"]
        for folder in (family["base"], tmp_path / "first", tmp_path / "scaled")
    )
    torch.testing.assert_close(twice - base, 2 * (once - base))


def test_a_model_without_rows_is_named(family: dict[str, str], tmp_path: Path) -> None:
    document = recipe_of(family).to_dict()
    del document["models"][1]["data"]
    with pytest.raises(UserError, match=r"mask needs rows of .*/b: add `data: FILE`"):
        evomerge.build(Recipe.from_dict(document), tmp_path / "out")
