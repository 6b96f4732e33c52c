"""TIES with the paper's trim over the whole model; pruning behind any method."""

import numpy as np
import pytest
import torch

from evomerge.merge.build import build
from evomerge.merge.parents.thresholds import Magnitudes
from evomerge.recipe.recipe import Recipe
from tests.models import load


def by_the_paper(base, models, density, scale):
    """Yadav 2023, §3.1, on one flat vector in float64, in numpy."""
    flat = np.concatenate([tensor.double().numpy().ravel() for tensor in base.values()])
    deltas = []
    for model in models:
        delta = np.concatenate([model[name].double().numpy().ravel() for name in base]) - flat
        keep = int(density * delta.size)
        least = np.sort(np.abs(delta))[-keep]
        deltas.append(np.where(np.abs(delta) >= least, delta, 0.0))
    stacked = np.stack(deltas)
    signs = np.sign(stacked.sum(axis=0))
    signs[signs == 0] = np.sign(signs.sum())
    agree = np.sign(stacked) == signs
    merged = (stacked * agree).sum(axis=0) / np.maximum(agree.sum(axis=0), 1)
    whole, at, result = flat + scale * merged, 0, {}
    for name, tensor in base.items():
        result[name] = whole[at : at + tensor.numel()].reshape(tensor.shape)
        at += tensor.numel()
    return result, stacked


def recipe(llama, method="ties_global", **parameters):
    return Recipe.from_dict(
        {
            "merge_method": method,
            "base_model": llama["base"],
            "models": [llama[name] for name in "abc"],
            "parameters": {"weight": 1.0, **parameters},
        }
    )


@pytest.fixture
def uneven(llama, tmp_path):
    """The family with one model whose attention moved ten times as far as the rest."""
    from safetensors.torch import save_file

    base, model = load(llama["base"]), load(llama["a"])
    scale = {name: 10.0 if "attn" in name else 1.0 for name in base}
    moved = {name: base[name] + scale[name] * (model[name] - base[name]) for name in base}
    folder = tmp_path / "uneven"
    folder.mkdir()
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / file).write_bytes((llama_path(llama, "a") / file).read_bytes())
    save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
    return {**llama, "a": str(folder)}


def llama_path(llama, name):
    from pathlib import Path

    return Path(llama[name])


@pytest.mark.parametrize(("density", "scale"), [(0.2, 1.0), (0.55, 0.7)])
def test_ties_over_the_whole_model_is_the_papers(uneven, density, scale, tmp_path):
    build(recipe(uneven, density=density, **{"lambda": scale}), tmp_path / "out")
    base = load(uneven["base"])
    expected, counts = by_the_paper(base, [load(uneven[n]) for n in "abc"], density, scale)
    off = 0
    for name, tensor in load(tmp_path / "out").items():
        near = np.isclose(tensor.double().numpy(), expected[name], rtol=1e-5, atol=1e-6)
        off += int((~near).sum())
    assert off <= 3, "float32 and float64 may differ on the element at a threshold, of each model"
    shares = (counts != 0).mean(axis=1)
    np.testing.assert_allclose(shares, density, atol=1e-3)
    attention = [n for n in base if "attn" in n]
    merged = load(tmp_path / "out")
    moved = {n: float((merged[n] != base[n]).float().mean()) for n in base}
    assert min(moved[n] for n in attention) > density, "what moved farther keeps more"


def test_whole_and_tensor_by_tensor_agree_where_nothing_is_trimmed(llama, tmp_path):
    same = {"density": 1.0, "zero_sign": "majority"}
    assert build(recipe(llama, **same), tmp_path / "one") == build(
        recipe(llama, "ties", **same), tmp_path / "other"
    )
    nothing = recipe(llama, density=0.0)
    build(nothing, tmp_path / "none")
    base = load(llama["base"])
    assert all(torch.equal(t, base[name]) for name, t in load(tmp_path / "none").items())


@pytest.mark.parametrize("density", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_the_threshold_is_that_of_sorting(density):
    draw = torch.Generator().manual_seed(3)
    spread = torch.tensor([1e-6, 1.0, 1e-3, 100.0])
    deltas = [scale * torch.randn(50, 7 + i, generator=draw) for i, scale in enumerate(spread)]
    deltas.append(torch.zeros(100))
    flat = torch.cat([delta.abs().reshape(-1) for delta in deltas])
    expected = flat.sort(descending=True).values[max(1, int(density * len(flat))) - 1]
    magnitudes = Magnitudes().count(iter(deltas))
    assert magnitudes.threshold(density, iter(deltas)) == float(expected)
    assert magnitudes.threshold(density, iter([])) == float(expected), "it is remembered"
    assert magnitudes.threshold(0.0, iter([])) == float("inf")
    assert magnitudes.threshold(1.0, iter([])) == 0.0


def test_any_merge_can_be_pruned_afterwards(llama, tmp_path):
    # Sparse model soups (Zimmer 2024) prune the average again: a merge of one merge.
    inner = recipe(llama, "ties", density=0.6).to_dict()
    nested = {
        "merge_method": "magnitude_prune",
        "models": [{"model": inner}],
        "parameters": {"density": [{"filter": "mlp", "value": 0.25}, {"value": 1.0}]},
    }
    build(Recipe.from_dict(nested), tmp_path / "pruned")
    build(Recipe.from_dict(inner), tmp_path / "plain")
    plain = load(tmp_path / "plain")
    for name, tensor in load(tmp_path / "pruned").items():
        if "mlp" not in name:
            assert torch.equal(tensor, plain[name])
            continue
        keep = tensor.numel() // 4
        least = plain[name].abs().reshape(-1).sort(descending=True).values[keep - 1]
        assert torch.equal(tensor, plain[name] * (plain[name].abs() >= least))
