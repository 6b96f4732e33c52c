"""SMILE: linear layers that choose among low-rank changes, in a live model and in an export."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import evomerge as em
from evomerge.core.errors import UserError
from evomerge.evaluate.model import load_model
from evomerge.evaluate.routed.modeling_routed import ByInputs
from evomerge.merge.low_rank import largest_parts
from evomerge.merge.parents.nested import open_parents
from evomerge.merge.plan.plan import plan
from evomerge.recipe.recipe import Recipe
from tests.models import load, make_family, near

TOKENS = torch.tensor([[1, 5, 9, 14, 20], [1, 6, 7, 30, 31]])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Models whose attention has biases, so that those are routed too."""
    folder = tmp_path_factory.mktemp("llama")
    family = make_family(folder, names=(), tied=True)
    base = Path(family["base"])
    other = {"attention_bias": True, "num_key_value_heads": 2}
    config = json.loads((base / "config.json").read_text())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig.from_dict({**config, **other}))
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(base)
    for seed, name in enumerate("ab"):
        family[name] = str(near(base, folder / name, seed=seed, scale=0.2))
    return family


def document(family: dict[str, str], *models: str, **parameters: Any) -> dict[str, Any]:
    return {
        "merge_method": "smile",
        "base_model": family["base"],
        "models": [{"model": family[name]} for name in models],
        "parameters": {"rank": 8, "gate_rank": 4, **parameters},
        "dtype": "float32",
    }


def logits(model: Any) -> Tensor:
    with torch.inference_mode():
        result: Tensor = model(input_ids=TOKENS).logits
    return result


def exported(written: dict[str, Any], out: Path) -> Any:
    em.build(Recipe.from_dict(written), out)
    return AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True).eval()


def test_one_model_at_full_rank_is_that_model(llama: dict[str, str], tmp_path: Path) -> None:
    model = exported(document(llama, "a", rank=16, rest="average"), tmp_path / "out")
    tuned, base = (load_model(llama[name])[0] for name in ("a", "base"))
    torch.testing.assert_close(logits(model), logits(tuned), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits(base), logits(tuned), atol=0.1)


def test_a_scale_of_zero_is_the_base(llama: dict[str, str], tmp_path: Path) -> None:
    model = exported(document(llama, "a", "b", scale=0.0, rest="base"), tmp_path / "out")
    base, _ = load_model(llama["base"])
    torch.testing.assert_close(logits(model), logits(base), atol=1e-6, rtol=1e-6)


def test_an_input_takes_the_change_whose_inputs_it_lies_in() -> None:
    """Two changes of rank 2 in disjoint inputs; biases differ too. Worked by the formula."""
    draw = torch.Generator().manual_seed(0)
    linear = nn.Linear(6, 5)
    layer = ByInputs(linear, experts=2, rank=2, gate=2, top=1)
    rows = torch.eye(6)
    outputs, biases = (torch.randn(s, generator=draw) for s in ((2, 5, 2), (2, 5)))
    layer.weight, layer.bias = linear.weight, linear.bias
    layer.expert_in.data = torch.stack([rows[:2], rows[2:4]])
    layer.expert_out.data, layer.expert_bias.data = outputs, biases
    x = torch.tensor([[3.0, -1.0, 0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 2.0, 2.0, 0.0, 5.0]])
    expected = torch.stack(
        [
            linear(x[0]) + outputs[0] @ x[0, :2] + biases[0],
            linear(x[1]) + outputs[1] @ x[1, 2:4] + biases[1],
        ]
    )
    torch.testing.assert_close(layer(x), expected)
    layer.top = 2
    p = torch.softmax(torch.tensor([10**0.5, 0.0]), 0)
    mixed = linear(x[0]) + p[0] * (outputs[0] @ x[0, :2] + biases[0]) + p[1] * biases[1]
    torch.testing.assert_close(layer(x)[0], mixed)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5)])
def test_parts_are_the_singular_ones(shape: tuple[int, int]) -> None:
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    parts = largest_parts(delta, 3)
    u, s, v = np.linalg.svd(delta.double().numpy(), full_matrices=False)
    closest = (u[:, :3] * s[:3]) @ v[:3]
    np.testing.assert_allclose((parts.outputs @ parts.inputs).numpy(), closest, atol=1e-5)
    np.testing.assert_allclose(np.abs(parts.inputs.numpy()), np.abs(v[:3]), atol=1e-5)
    assert not largest_parts(torch.zeros(3, 5), 2).inputs.any()


def test_an_export_runs_as_the_live_model_and_refuses_to_load_as_the_base(
    llama: dict[str, str], tmp_path: Path
) -> None:
    model = exported(document(llama, "a", "b", scale=1.3), tmp_path / "out")
    assert type(model).__name__ == "RoutedLlamaForCausalLM"
    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=False)
    stored = load(tmp_path / "out")["model.layers.1.mlp.up_proj.expert_in"]
    assert stored.shape == (2, 8, 16)
    text = model.generate(TOKENS, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert text.shape == (2, 8)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["model_type"] == "routed_llama"
    assert "SHA-256" in (tmp_path / "out" / "README.md").read_text()


def test_a_plan_counts_what_a_token_meets(llama: dict[str, str]) -> None:
    recipe = Recipe.from_dict(document(llama, "a", "b"))
    made = plan(recipe, open_parents(recipe.model_names).checkpoints)
    outputs = sum(np.prod(job.shape) for job in made.jobs if job.name.endswith("expert_out"))
    biases = sum(np.prod(job.shape) for job in made.jobs if job.name.endswith("expert_bias"))
    assert made.parameters - made.parameters_per_token == (outputs + biases) / 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 17}, "rank: expected at most 16, since model.layers.0.mlp.down_proj.weight is"),
        ({"gate_rank": 9}, "gate_rank: expected at most 8, the rank, but got 9"),
        ({"top": 3}, "top: expected at most 2, the models, but got 3"),
    ],
)
def test_ranks_that_do_not_fit_are_named(
    llama: dict[str, str], change: dict[str, Any], message: str
) -> None:
    recipe = Recipe.from_dict(document(llama, "a", "b", **change))
    with pytest.raises(UserError, match=message):
        plan(recipe, open_parents(recipe.model_names).checkpoints)


def test_layers_that_are_not_linear_are_named(tmp_path: Path) -> None:
    family = make_family(tmp_path, "gpt2", names=("a",))
    recipe = Recipe.from_dict(document(family, "a"))
    with pytest.raises(UserError, match="only linear layers under their own names can choose"):
        plan(recipe, open_parents(recipe.model_names).checkpoints)
