"""A fine-tune as an adapter: what PEFT loads is the fine-tune again, up to the error told."""

import json

import numpy as np
import pytest
import torch

from evomerge.checkpoint.opening import open_model
from evomerge.cli import main
from evomerge.core.errors import UserError
from evomerge.merge.build import build
from evomerge.merge.output.extract_lora import extract_lora
from evomerge.merge.output.peft_folder import total_error
from evomerge.recipe.recipe import Recipe
from tests.adapters import make_adapter, merged_by_peft
from tests.models import load, make_model, near

TARGETS = {"llama": ["q_proj", "v_proj", "down_proj"], "gpt2": ["c_attn", "c_proj"]}


@pytest.fixture(scope="module", params=TARGETS)
def adapted(request, tmp_path_factory):
    """A base, and the folder of a model that differs from it by deltas of rank 4."""
    folder = tmp_path_factory.mktemp(request.param)
    base = make_model(folder / "base", request.param)
    adapter = make_adapter(folder / "adapter", base, target_modules=TARGETS[request.param])
    recipe = {"merge_method": "linear", "models": [f"{base}+{adapter}"]}
    build(Recipe.from_dict({**recipe, "parameters": {"weight": 1.0}}), folder / "tuned")
    return base, folder / "tuned"


def test_a_low_rank_fine_tune_comes_back_whole(adapted, tmp_path):
    base, tuned = adapted
    report = extract_lora(str(tuned), str(base), tmp_path / "out", rank=4)
    assert total_error(report) < 1e-5
    assert {entry.saved_as for entry in report} == {"rank"}
    expected = load(tuned)
    by_peft = merged_by_peft(base, tmp_path / "out")
    ours = open_model(f"{base}+{tmp_path / 'out'}")
    for name, tensor in expected.items():
        torch.testing.assert_close(by_peft[name], tensor, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.tensor(name), tensor, rtol=1e-5, atol=1e-5)


def test_the_error_is_that_of_the_singular_values_left_off(tmp_path):
    base = make_model(tmp_path / "base")
    tuned = near(base, tmp_path / "tuned", seed=5)
    report = extract_lora(str(tuned), str(base), tmp_path / "out", rank=3)
    before, after = load(base), load(tuned)
    made = merged_by_peft(base, tmp_path / "out")
    missed, whole = 0.0, 0.0
    for entry in report:
        delta = after[entry.name].double().numpy() - before[entry.name].double().numpy()
        got = made[entry.name].double().numpy() - before[entry.name].double().numpy()
        if entry.saved_as == "rank":
            values = np.linalg.svd(delta, compute_uv=False)
            expected = np.sqrt((values[3:] ** 2).sum() / (values**2).sum())
            assert entry.rank == 3
        else:
            assert entry.saved_as == "left out"
            assert not got.any()
            expected = 1.0
        assert entry.error == pytest.approx(expected, rel=1e-4)
        assert np.linalg.norm(got - delta) / np.linalg.norm(delta) == pytest.approx(
            expected, rel=1e-3
        )
        missed += np.linalg.norm(got - delta) ** 2
        whole += np.linalg.norm(delta) ** 2
    assert total_error(report) == pytest.approx(np.sqrt(missed / whole), rel=1e-3)
    assert {entry.name for entry in report} == set(before), "near() moves every tensor"
    extraction = json.loads((tmp_path / "out" / "extraction.json").read_text())
    assert extraction["relative_error"] == pytest.approx(total_error(report))
    assert len(extraction["tensors"]) == len(report)


def test_at_full_rank_and_with_the_rest_saved_nothing_is_missed(tmp_path):
    base = make_model(tmp_path / "base")
    tuned = near(base, tmp_path / "tuned", seed=6)
    rest = ("norm", "embedding", "head")
    report = extract_lora(str(tuned), str(base), tmp_path / "out", rank=99, save_whole=rest)
    assert total_error(report) < 1e-6
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["rank_pattern"]["model.layers.0.self_attn.k_proj"] == 8, "its least dimension"
    made = merged_by_peft(base, tmp_path / "out")
    ours = open_model(f"{base}+{tmp_path / 'out'}")
    for name, tensor in load(tuned).items():
        torch.testing.assert_close(made[name], tensor, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.tensor(name), tensor, rtol=1e-5, atol=1e-5)


def test_tensors_that_cannot_be_extracted_are_reported(tmp_path):
    base = make_model(tmp_path / "base", tied=True)
    tuned = near(base, tmp_path / "tuned", seed=7)
    with pytest.raises(UserError, match="expected linear layers that differ"):
        extract_lora(str(base), str(base), tmp_path / "out", rank=2)
    with pytest.raises(UserError, match=r"model\.embed_tokens\.weight: cannot be saved whole"):
        extract_lora(str(tuned), str(base), tmp_path / "out", 2, save_whole=["embedding"])
    with pytest.raises(UserError, match="rank: expected at least 1"):
        extract_lora(str(tuned), str(base), tmp_path / "out", rank=0)
    with pytest.raises(UserError, match="is missing"):
        extract_lora(str(make_model(tmp_path / "b", layers=1)), str(base), tmp_path / "out", 2)
    assert not (tmp_path / "out").exists()


def test_the_command_tells_the_worst_and_the_whole(tmp_path, capsys):
    base = make_model(tmp_path / "base")
    tuned = near(base, tmp_path / "tuned", seed=8)
    out = tmp_path / "out"
    command = ["extract-lora", str(tuned), str(base), str(out), "--rank", "2"]
    assert main([*command, "--save-whole", "norm"]) == 0
    lines = capsys.readouterr().out.splitlines()
    worst = [float(line.split()[0]) for line in lines[:5]]
    assert worst == sorted(worst, reverse=True)
    assert lines[5] == "          and 9 with less; all in extraction.json"
    assert lines[6].startswith("saved whole: model.layers.0.input_layernorm.weight, ")
    assert lines[7] == "left out: lm_head.weight, model.embed_tokens.weight"
    relative_error = json.loads((out / "extraction.json").read_text())["relative_error"]
    assert lines[8] == f"relative error {relative_error:.4f}, counting what was left out"
    assert lines[9] == f"wrote {out}"
    assert main(command) == 2
    assert "already exists" in capsys.readouterr().err


def test_a_recipe_over_adapters_becomes_one_adapter_of_their_summed_rank(tmp_path):
    base = make_model(tmp_path / "base")
    adapters = [make_adapter(tmp_path / f"a{i}", base, seed=i, r=2) for i in (1, 2)]
    recipe = Recipe.from_dict(
        {
            "merge_method": "task_arithmetic",
            "base_model": str(base),
            "models": [
                {"model": f"{base}+{adapter}", "parameters": {"weight": weight}}
                for adapter, weight in zip(adapters, (0.7, 0.4), strict=True)
            ],
        }
    )
    recipe.to_yaml(tmp_path / "best.yaml")
    build(recipe, tmp_path / "model")
    report = extract_lora(str(tmp_path / "best.yaml"), str(base), tmp_path / "out", rank=4)
    assert total_error(report) < 1e-5
    by_peft = merged_by_peft(base, tmp_path / "out")
    for name, tensor in load(tmp_path / "model").items():
        torch.testing.assert_close(by_peft[name], tensor, rtol=1e-5, atol=1e-5)
    less = extract_lora(str(tmp_path / "best.yaml"), str(base), tmp_path / "less", rank=2)
    assert 0.01 < total_error(less) < 1
