"""Gram matrices are those of the inputs that each layer's module sees, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evomerge.calibration.gram import grams
from evomerge.calibration.rows import Row
from evomerge.evaluate.model import load_model
from tests.architectures import config_of
from tests.models import load, make_model

ROWS = [
    Row(1, (1, 5, 9, 12, 7, 3), 1),
    Row(2, (1, 30, 2, 9), 2),
    Row(3, (4, 4, 21, 33, 8, 17), 1),
    Row(4, (6, 11), 1),
]


def measured(model: Any, names: Any, rows: Any = ROWS, **more: Any) -> dict[str, Tensor]:
    """Each weight's matrix, in the order of its inputs."""
    kept: dict[str, Tensor] = {}
    leaders = grams(model, list(names), rows, kept.update, **more)
    return {name: kept[shared.leader] for name, shared in leaders.items()}


def seen_by_modules(model: Any) -> dict[str, Tensor]:
    """The same by another way: hooks on modules, one row at a time, in float64."""
    sums: dict[str, Tensor] = {}
    hooks = []
    for name, module in model.named_modules():
        if type(module).__name__ in ("Linear", "Conv1D"):

            def hook(_: Any, inputs: Any, name: str = name) -> None:
                x = inputs[0].reshape(-1, inputs[0].shape[-1]).double()
                sums[f"{name}.weight"] = sums.get(f"{name}.weight", 0) + x.T @ x

            hooks.append(module.register_forward_pre_hook(hook))
    total = sum(len(row.tokens) - 1 for row in ROWS)
    with torch.no_grad():
        for row in ROWS:
            model(torch.tensor([row.tokens[:-1]]))
    for one in hooks:
        one.remove()
    return {name: matrix / total for name, matrix in sums.items()}


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "tied"])
def test_a_layers_matrix_is_the_mean_over_tokens_and_rows_of_other_lengths_add_up(
    kind: str, tmp_path: Path
) -> None:
    tied = kind == "tied"
    folder = make_model(tmp_path / "m", "llama" if tied else kind, tied=tied)
    model, _ = load_model(folder, "float32")
    given = measured(model, load(folder))
    wanted = seen_by_modules(model)
    if tied or kind == "gpt2":  # a head that is the embedding has no matrix
        del wanted["lm_head.weight"]
    assert set(given) == set(wanted)
    for name, matrix in wanted.items():
        torch.testing.assert_close(given[name].double(), matrix, rtol=1e-5, atol=1e-6)


def test_layers_of_one_input_share_a_matrix_and_gpt2s_weights_are_transposed(
    tmp_path: Path,
) -> None:
    model, _ = load_model(make_model(tmp_path / "m"), "float32")
    names = list(load(tmp_path / "m"))
    kept: dict[str, Tensor] = {}
    leaders = grams(model, names, ROWS, kept.update)
    attention = "model.layers.0.self_attn."
    assert {leaders[f"{attention}{x}_proj.weight"].leader for x in "qkv"} == {
        f"{attention}q_proj.weight"
    }
    assert len(kept) == 2 * 4 + 1  # attention's input and output, mlp's; the head
    assert not any(one.transposed for one in leaders.values())
    model, _ = load_model(make_model(tmp_path / "g", "gpt2"), "float32")
    leaders = grams(model, list(load(tmp_path / "g")), ROWS, kept.update)
    assert len(leaders) == 8
    assert all(one.transposed for one in leaders.values())


def test_with_little_memory_the_rows_run_more_often_and_give_the_same(tmp_path: Path) -> None:
    model, _ = load_model(make_model(tmp_path / "m"), "float32")
    names = list(load(tmp_path / "m"))
    parts: list[list[str]] = []

    def keep(matrices: Any) -> None:
        parts.append(list(matrices))
        kept.update(matrices)

    kept: dict[str, Tensor] = {}
    grams(model, names, ROWS, keep, budget=4 * 3 * 16 * 16)
    assert len(parts) > 2
    whole: dict[str, Tensor] = {}
    grams(model, names, ROWS, whole.update)
    assert kept.keys() == whole.keys()
    assert all(torch.equal(kept[name], whole[name]) for name in whole)


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "qwen2_moe"])
def test_each_expert_has_the_matrix_of_the_tokens_that_are_routed_to_it(
    kind: str, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = AutoModelForCausalLM.from_config(config_of(kind))
    made.save_pretrained(tmp_path)
    model, _ = load_model(tmp_path, "float32")
    given = measured(model, load(tmp_path))
    routed: dict[str, list[Any]] = {}
    for name, module in model.named_modules():
        if name.endswith(".experts"):
            module.register_forward_pre_hook(
                lambda _, inputs, name=name: routed.setdefault(name, []).append(inputs)
            )
    total = sum(len(row.tokens) - 1 for row in ROWS)
    with torch.no_grad():
        for row in ROWS:
            model(torch.tensor([row.tokens[:-1]]))
    first = "w1" if kind == "mixtral" else "gate_proj"
    third = "w3" if kind == "mixtral" else "up_proj"
    last = "w2" if kind == "mixtral" else "down_proj"
    checked = 0
    for layer, calls in routed.items():
        module = model.get_submodule(layer)
        # stored under another name than it has in the live model
        prefix = next(n for n in given if ".experts.0." in n and f".{layer.split('.')[2]}." in n)
        for expert in range(4):
            inputs = [x[(index == expert).any(-1)].double() for x, index, _ in calls]
            x = torch.cat(inputs)
            name = prefix.split(".experts.")[0] + f".experts.{expert}."
            if not len(x):
                assert f"{name}{first}.weight" not in given
                continue
            torch.testing.assert_close(
                given[f"{name}{first}.weight"].double(), x.T @ x / total, rtol=1e-5, atol=1e-7
            )
            assert torch.equal(given[f"{name}{third}.weight"], given[f"{name}{first}.weight"])
            gate, up = (x @ module.gate_up_proj[expert].double().T).chunk(2, dim=-1)
            inner = module.act_fn(gate) * up
            torch.testing.assert_close(
                given[f"{name}{last}.weight"].double(),
                inner.T @ inner / total,
                rtol=1e-4,
                atol=1e-8,
            )
            checked += 1
    assert checked > 3
