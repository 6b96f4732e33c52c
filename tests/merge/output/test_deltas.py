"""Exact deltas: base + delta = model bit for bit; several models as one sum and a bit each."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.checkpoint.opening import open_stored
from evomerge.cli import main
from evomerge.core.errors import UserError
from evomerge.merge.build import build
from evomerge.merge.output.delta_folder import apply_delta, extract_delta, tall_compress
from evomerge.recipe.recipe import Recipe
from tests.models import load, make_family, make_model, near

NORM = "model.norm.weight"
Q = "model.layers.0.self_attn.q_proj.weight"
K = "model.layers.0.self_attn.k_proj.weight"


def raw(folder):
    """Every stored tensor of a folder, as bytes with dtype and shape."""
    _, _, files = open_stored(folder)
    return {
        name: (t.dtype, t.shape, t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        for name in files.tensors
        for t in [files.tensor(name)]
    }


def changed(base, folder, change):
    """A copy of a model whose tensors a function changed in place, in a mapping."""
    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_fine_tune_comes_back_bit_for_bit_with_all_its_files(architecture, dtype, tmp_path):
    base = make_model(tmp_path / "base", architecture, dtype=dtype)
    model = near(base, tmp_path / "model", seed=1)
    extract_delta(model, base, tmp_path / "delta")
    apply_delta(tmp_path / "delta", base, tmp_path / "back")
    assert raw(tmp_path / "back") == raw(model)
    for file in ("config.json", "tokenizer.json"):
        assert (tmp_path / "back" / file).read_bytes() == (model / file).read_bytes()


def test_each_tensor_is_stored_in_the_way_that_suits_it(tmp_path):
    base = make_model(tmp_path / "base")

    def change(tensors):
        tensors[Q].view(-1)[:100] += 1.0  # of 256: fewer than half
        tensors[K] = tensors[K] + 1.0
        tensors["new.weight"] = torch.arange(6.0).reshape(2, 3)
        del tensors["lm_head.weight"]

    model = changed(base, tmp_path / "model", change)
    size = extract_delta(model, base, tmp_path / "delta")
    ways = json.loads((tmp_path / "delta" / "delta.json").read_text())["tensors"]
    hows = {name: way["how"] for name, way in ways.items() if way["how"] != "equal"}
    assert hows == {Q: "sparse", K: "xor", "new.weight": "whole"}
    stored = load_file(tmp_path / "delta" / "delta.safetensors")
    k_elements = load(model)[K].numel()
    by_hand = {f"{Q}.mask": 256 // 8, f"{Q}.values": 4 * 100, f"{K}.xor": 4 * k_elements}
    assert {name: t.nbytes for name, t in stored.items()} == {**by_hand, "new.weight.whole": 24}
    assert size.stored == sum(by_hand.values()) + 24
    mask = np.unpackbits(stored[f"{Q}.mask"].numpy(), bitorder="little")
    assert mask.tolist() == [1] * 100 + [0] * 156
    apply_delta(tmp_path / "delta", base, tmp_path / "back")
    assert raw(tmp_path / "back") == raw(model)


def test_bits_count_and_not_values(tmp_path):
    """-0 equals 0 and NaN differs from itself; their bits say otherwise."""
    base = changed(make_model(tmp_path / "plain"), tmp_path / "base", lambda t: t[NORM].zero_())

    def change(tensors):
        tensors[NORM][0] = -0.0
        tensors[NORM][1] = float("nan")

    model = changed(base, tmp_path / "model", change)
    extract_delta(model, base, tmp_path / "delta")
    apply_delta(tmp_path / "delta", base, tmp_path / "back")
    assert raw(tmp_path / "back") == raw(model)
    extract_delta(model, model, tmp_path / "nothing")  # NaN is equal to itself here
    assert not list((tmp_path / "nothing").glob("*.safetensors"))
    apply_delta(tmp_path / "nothing", model, tmp_path / "same")
    assert raw(tmp_path / "same") == raw(model)


def test_another_base_is_refused_by_the_tensor_that_differs(tmp_path):
    family = make_family(tmp_path)
    extract_delta(family["a"], family["base"], tmp_path / "delta")
    with pytest.raises(UserError, match=r"does not come back as it was: the base is another"):
        apply_delta(tmp_path / "delta", family["b"], tmp_path / "back")
    assert not (tmp_path / "back").exists()
    other = make_model(tmp_path / "deep", layers=1)
    with pytest.raises(UserError, match=r"delta and base do not belong together"):
        apply_delta(tmp_path / "delta", other, tmp_path / "back")


@pytest.mark.parametrize("damage", ["values", "text", "kind", "lost"])
def test_a_damaged_delta_is_refused_in_one_line(damage, tmp_path):
    family = make_family(tmp_path)
    delta = tmp_path / "delta"
    extract_delta(family["a"], family["base"], delta)
    if damage == "values":
        tensors = load_file(delta / "delta.safetensors")
        name = next(name for name in tensors if name.endswith(".xor"))
        tensors[name] = tensors[name].reshape(-1)[1:].clone()
        save_file(tensors, delta / "delta.safetensors")
    if damage == "text":
        (delta / "delta.json").write_text("{")
    if damage == "kind":
        (delta / "delta.json").write_text('{"format": "evomerge delta 9", "tensors": {}}')
    if damage == "lost":
        (delta / "delta.safetensors").unlink()
    with pytest.raises(UserError):
        apply_delta(delta, family["base"], tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_compressed_models_come_back_as_the_method_tall_mask_serves_them(tmp_path):
    family = make_family(tmp_path, names=("a", "b", "c"))
    names = ["a", "b", "c"]
    tall_compress([family[n] for n in names], family["base"], tmp_path / "tall", 0.3)
    for name in names:
        apply_delta(tmp_path / "tall", family["base"], tmp_path / f"back-{name}", name)
        recipe = {
            "merge_method": "tall_mask",
            "base_model": family["base"],
            "models": [
                {"model": family[n], "parameters": {"serve": float(n == name), "lam": 0.3}}
                for n in names
            ],
            "dtype": "float32",
        }
        build(Recipe.from_dict(recipe), tmp_path / f"built-{name}")
        assert raw(tmp_path / f"back-{name}") == raw(tmp_path / f"built-{name}")


def test_compressed_models_cost_a_bit_an_element_besides_one_sum(tmp_path):
    family = make_family(tmp_path, names=("a", "b", "c"))
    size = tall_compress(
        [family[n] for n in ("a", "b", "c")], family["base"], tmp_path / "tall", 0.3
    )
    elements = sum(t.numel() for t in load(family["base"]).values())
    assert (
        elements * (4 + 3 / 8) <= size.stored <= elements * (4 + 3 / 8) + 3 * size.counts["shared"]
    )
    assert size.models == 3 * 4 * elements


def test_a_model_with_changes_of_its_own_places_comes_back_exactly(tmp_path):
    """Disjoint supports and lam <= 1: the paper's reconstruction is exact (Wang 2024)."""
    base = changed(make_model(tmp_path / "plain"), tmp_path / "base", lambda t: t[Q].zero_())
    a = changed(base, tmp_path / "a", lambda t: t[Q].view(-1)[:50].fill_(2.0))
    b = changed(base, tmp_path / "b", lambda t: t[Q].view(-1)[50:90].fill_(-3.0))
    tall_compress([str(a), str(b)], base, tmp_path / "tall", 1.0)
    apply_delta(tmp_path / "tall", base, tmp_path / "back", "a")
    assert raw(tmp_path / "back") == raw(a)


def test_compressing_refuses_models_that_do_not_belong_together(tmp_path):
    family = make_family(tmp_path)
    base, a = family["base"], family["a"]
    with pytest.raises(UserError, match="different names"):
        tall_compress([a, a], base, tmp_path / "tall")
    other = make_model(tmp_path / "other", layers=1)
    with pytest.raises(UserError, match="is missing, or of another shape"):
        tall_compress([a, str(other)], base, tmp_path / "tall")
    tall_compress([a, family["b"]], base, tmp_path / "tall")
    with pytest.raises(UserError, match="expected --model, one of a, b, but none was named"):
        apply_delta(tmp_path / "tall", base, tmp_path / "back")
    with pytest.raises(UserError, match="the base is another than the delta's"):
        apply_delta(tmp_path / "tall", a, tmp_path / "back", "a")


def missed(model, back, base):
    """Relative Frobenius norm of what a model that came back misses of the change."""
    model, back, base = (load(folder) for folder in (model, back, base))
    parts = [(model[n].double() - back[n].double()).norm() for n in model]
    change = [(model[n].double() - base[n].double()).norm() for n in model]
    return float(torch.stack(parts).norm() / torch.stack(change).norm())


def test_a_density_keeps_the_largest_changes_and_says_what_it_misses(tmp_path):
    family = make_family(tmp_path)
    size = extract_delta(family["a"], family["base"], tmp_path / "delta", density=0.25)
    apply_delta(tmp_path / "delta", family["base"], tmp_path / "back")
    assert size.error == pytest.approx(missed(family["a"], tmp_path / "back", family["base"]))
    assert 0.5 < size.error < 0.7  # of a normal distribution the smaller three quarters: .56
    before, after, whole = (load(f)[Q] for f in (family["base"], tmp_path / "back", family["a"]))
    moved = after != before
    assert int(moved.sum()) == after.numel() // 4
    assert torch.equal(after[moved], whole[moved])
    change = (whole - before).abs()
    assert float(change[moved].min()) >= float(change[~moved].max())
    assert size.stored < 0.3 * size.models


def test_a_rank_stores_factors_where_they_are_smaller_and_says_what_they_miss(tmp_path):
    family = make_family(tmp_path)
    size = extract_delta(family["a"], family["base"], tmp_path / "delta", rank=2)
    apply_delta(tmp_path / "delta", family["base"], tmp_path / "back")
    assert size.error == pytest.approx(missed(family["a"], tmp_path / "back", family["base"]))
    before, after, whole = (load(f)[Q] for f in (family["base"], tmp_path / "back", family["a"]))
    u, s, v = np.linalg.svd((whole - before).double().numpy())
    closest = (u[:, :2] * s[:2]) @ v[:2]
    np.testing.assert_allclose((after - before).numpy(), closest, atol=1e-6)
    norm = "model.norm.weight"
    assert torch.equal(load(tmp_path / "back")[norm], load(family["a"])[norm])
    with pytest.raises(UserError, match="the base is another than the delta's"):
        apply_delta(tmp_path / "delta", family["b"], tmp_path / "other")


def test_a_change_of_low_rank_comes_back_but_for_rounding(tmp_path):
    base = make_model(tmp_path / "base")

    def change(tensors):
        tensors[Q] += torch.outer(torch.arange(16.0), torch.ones(16))

    model = changed(base, tmp_path / "model", change)
    size = extract_delta(model, base, tmp_path / "delta", rank=1)
    assert size.error < 1e-6
    assert size.counts["low_rank"] == 1
    assert size.stored == 2 * 16 * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--density", "0"], "--density: expected above 0, at most 1"),
        (["--density", "0.5", "--rank", "2"], "and no --rank"),
        (["--rank", "0"], "--rank: expected at least 1"),
        (["--tall", "--rank", "2"], "--tall goes with neither --density nor --rank"),
    ],
)
def test_options_that_do_not_go_together_are_named(options, message, tmp_path, capsys):
    family = make_family(tmp_path, names=("a",))
    words = ["extract-delta", family["a"], family["base"], str(tmp_path / "delta"), *options]
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_the_commands_print_sizes_and_write_folders(tmp_path, capsys):
    family = make_family(tmp_path)
    delta, tall = str(tmp_path / "delta"), str(tmp_path / "tall")
    assert main(["extract-delta", family["a"], family["base"], delta]) == 0
    assert main(["apply-delta", delta, family["base"], str(tmp_path / "back")]) == 0
    words = ["extract-delta", family["a"], family["base"], str(tmp_path / "close"), "--rank", "1"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "(100.0 %)" in printed
    assert "% of the change is missed" in printed
    models = [family["a"], family["b"]]
    assert main(["extract-delta", *models, family["base"], tall, "--tall"]) == 0
    assert main(["apply-delta", tall, family["base"], str(tmp_path / "b2"), "--model", "b"]) == 0
    assert raw(tmp_path / "back") == raw(family["a"])
    assert main(["apply-delta", delta, family["base"], str(tmp_path / "back")]) == 2
    assert main(["extract-delta", *models, family["base"], str(tmp_path / "two")]) == 2
    assert "2 models in one delta need --tall" in capsys.readouterr().err
