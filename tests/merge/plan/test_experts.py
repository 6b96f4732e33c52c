"""Mixtures of experts: MLPs of several parents behind a router, as transformers loads them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import evomerge as em
from evomerge.core.errors import UserError
from evomerge.evaluate.model import load_model
from evomerge.merge.build import fill, live_digest
from evomerge.merge.parents.nested import open_parents, with_merges
from evomerge.merge.plan.plan import plan
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.space.space import SearchSpace
from tests.models import load, make_family

ROWS = ["w1 w2 w3 w4", "w5 w6", "w7 w8 w9"]
TOKENS = torch.tensor([[1, 5, 9, 14, 20], [1, 6, 7, 30, 31]])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_family(tmp_path_factory.mktemp("llama"), names=("a", "b", "c"), scale=0.2)


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_family(tmp_path_factory.mktemp("qwen3"), "qwen3", tied=True)


@pytest.fixture
def rows(tmp_path: Path) -> str:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in ROWS))
    return str(tmp_path / "rows.jsonl")


def document(family: dict[str, str], *models: str, **parameters: Any) -> dict[str, Any]:
    return {
        "merge_method": "moe",
        "base_model": family["base"],
        "models": [{"model": family[name]} for name in models],
        "parameters": {"router": "random", **parameters},
        "dtype": "float32",
    }


def built(written: dict[str, Any], out: Path) -> Any:
    em.build(Recipe.from_dict(written), out)
    model, _ = load_model(out)
    return model


def logits(model: Any) -> Tensor:
    with torch.inference_mode():
        result: Tensor = model(input_ids=TOKENS).logits
    return result


@pytest.mark.parametrize(
    ("parameters", "architecture"),
    [
        ({"top": 2}, "MixtralForCausalLM"),
        ({"top": 1, "layout": "qwen2_moe"}, "Qwen2MoeForCausalLM"),
        ({"top": 2, "shared": 0.3}, "Qwen2MoeForCausalLM"),
        ({"top": 2, "every": 2}, "Qwen2MoeForCausalLM"),
    ],
)
def test_equal_experts_are_the_dense_model(
    llama: dict[str, str], tmp_path: Path, parameters: dict[str, Any], architecture: str
) -> None:
    written = document(llama, "a", "b", "c", scale=0.0, sharpness=50.0, **parameters)
    model = built(written, tmp_path / "out")
    assert type(model).__name__ == architecture
    dense, _ = load_model(llama["base"])
    torch.testing.assert_close(logits(model), logits(dense), atol=2e-5, rtol=1e-5)


def test_qwen3_gets_its_own_mixture(qwen3: dict[str, str], tmp_path: Path) -> None:
    model = built(document(qwen3, "a", "b", scale=0.0), tmp_path / "out")
    assert type(model).__name__ == "Qwen3MoeForCausalLM"
    dense, _ = load_model(qwen3["base"])
    torch.testing.assert_close(logits(model), logits(dense), atol=2e-5, rtol=1e-5)


def test_all_experts_mix_by_the_softmax_of_the_router(
    llama: dict[str, str], tmp_path: Path
) -> None:
    """With top = E a layer is sum_e softmax(x r)_e MLP_e(x), here in float64 of the files."""
    model = built(document(llama, "a", "b", "c", top=3, sharpness=40.0), tmp_path / "out")
    x = torch.randn(1, 7, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        (answer,) = model.model.layers[1].mlp(x)
    stored = load(tmp_path / "out")
    r = stored["model.layers.1.block_sparse_moe.gate.weight"].double()
    shares = torch.softmax(x[0].double() @ r.T, -1)
    expected = torch.zeros(7, 16, dtype=torch.float64)
    for number, name in enumerate("abc"):
        parent = load(llama[name])
        gate, up, down = (
            parent[f"model.layers.1.mlp.{p}_proj.weight"].double() for p in ("gate", "up", "down")
        )
        inner = torch.nn.functional.silu(x[0].double() @ gate.T) * (x[0].double() @ up.T)
        expected += shares[:, number, None] * (inner @ down.T)
    torch.testing.assert_close(answer.double(), expected, atol=1e-6, rtol=1e-4)


def test_experts_are_the_parents_bits_and_the_rest_is_a_merge(
    llama: dict[str, str], tmp_path: Path
) -> None:
    inner = {
        "merge_method": "linear",
        "models": [{"model": llama[n], "parameters": {"weight": 1}} for n in "ab"],
    }
    written = {**document(llama, "a", "b"), "base_model": inner}
    em.build(Recipe.from_dict(written), tmp_path / "out")
    ours, a, b = load(tmp_path / "out"), load(llama["a"]), load(llama["b"])
    expert = ours["model.layers.0.block_sparse_moe.experts.1.w2.weight"]
    assert torch.equal(expert, b["model.layers.0.mlp.down_proj.weight"])
    query = "model.layers.0.self_attn.q_proj.weight"
    torch.testing.assert_close(ours[query], (a[query] + b[query]) / 2)


def test_a_layers_experts_are_the_models_of_largest_priority_there(
    llama: dict[str, str], tmp_path: Path
) -> None:
    written = document(llama, "a", "b", "c", experts=2, top=1)
    for entry, priority in zip(written["models"], ([0, 1], [0.6, 0.5], [0.7, 0.2]), strict=True):
        entry["parameters"] = {"priority": priority}  # gradients: the first layer, the last
    built(written, tmp_path / "out")
    ours = load(tmp_path / "out")
    for layer, chosen in ((0, "bc"), (1, "ab")):
        for number, name in enumerate(chosen):
            expert = ours[f"model.layers.{layer}.block_sparse_moe.experts.{number}.w2.weight"]
            parent = load(llama[name])[f"model.layers.{layer}.mlp.down_proj.weight"]
            assert torch.equal(expert, parent)
    assert "model.layers.0.block_sparse_moe.experts.2.w2.weight" not in ours


def test_priorities_are_genes_of_each_knot(llama: dict[str, str]) -> None:
    entries = [{"model": "*", "parameters": {"priority": {"low": 0, "high": 1, "knots": 2}}}]
    parameters = {"experts": 2, "top": 1, "router": "random"}
    space = SearchSpace.from_dict(
        {"merge_method": "moe", "models": entries, "parameters": parameters}
    ).bind(llama["base"], [llama[name] for name in "abc"])
    recipe = space.fill([0.1, 0.9, 0.2, 0.8, 0.3, 0.7])
    made = plan(recipe, open_parents(recipe.model_names).checkpoints)
    read = {job.name: job.models[0].model for job in made.jobs if "experts.0.w1" in job.name}
    assert read == {
        "model.layers.0.block_sparse_moe.experts.0.w1.weight": llama["b"],
        "model.layers.1.block_sparse_moe.experts.0.w1.weight": llama["a"],
    }


def test_hidden_routers_are_unit_means_of_unit_inputs(
    llama: dict[str, str], rows: str, tmp_path: Path
) -> None:
    written = document(llama, "a", "b", router="hidden", sharpness=3.0)
    for entry in written["models"]:
        entry["data"] = rows
    em.build(Recipe.from_dict(written), tmp_path / "out")
    parent, tokenizer = load_model(llama["b"])
    inputs: list[Tensor] = []
    layer = parent.model.layers[1].mlp
    layer.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0][0]))
    with torch.inference_mode():
        for text in ROWS:
            parent(input_ids=torch.tensor([tokenizer(text)["input_ids"][:-1]]))
    x = torch.cat(inputs)
    mean = (x / x.norm(dim=-1, keepdim=True)).mean(0)
    router = load(tmp_path / "out")["model.layers.1.block_sparse_moe.gate.weight"]
    torch.testing.assert_close(router[1], 3.0 * mean / mean.norm(), atol=1e-5, rtol=1e-4)


def test_one_parent_is_upcycled_by_a_router_of_the_seed(
    llama: dict[str, str], tmp_path: Path
) -> None:
    written = document(llama, "a", experts=8, sharpness=1.0)
    em.build(Recipe.from_dict(written), tmp_path / "out")
    router = load(tmp_path / "out")["model.layers.0.block_sparse_moe.gate.weight"]
    assert router.shape == (8, 16)
    assert 0.015 < float(router.std()) < 0.025
    other = Recipe.from_dict({**written, "seed": 1})
    assert other.digest != Recipe.from_dict(written).digest
    em.build(other, tmp_path / "other")
    again = load(tmp_path / "other")["model.layers.0.block_sparse_moe.gate.weight"]
    assert not torch.equal(router, again)


def test_a_mixture_in_a_live_model_is_the_one_on_disk(
    llama: dict[str, str], tmp_path: Path
) -> None:
    recipe = Recipe.from_dict(document(llama, "a", "b", "c", scale=[0.5, 1.5], shared=0.25))
    digest = em.build(recipe, tmp_path / "out")
    model, _ = load_model(tmp_path / "out")
    for tensor in model.parameters():
        tensor.data.zero_()
    parents = with_merges(recipe, open_parents(recipe.model_names))
    made = plan(recipe, parents.checkpoints)
    fill(model, made, parents)
    assert live_digest(model, made, parents) == digest


def test_a_plan_counts_parameters_in_all_and_per_token(llama: dict[str, str]) -> None:
    recipe = Recipe.from_dict(document(llama, "a", "b", "c", top=1))
    made = plan(recipe, open_parents(recipe.model_names).checkpoints)
    expert, router = 3 * 16 * 24, 3 * 16
    dense = sum(t.numel() for t in load(llama["base"]).values())
    assert made.parameters == dense + 2 * (2 * expert + router)
    assert made.parameters_per_token == dense + 2 * router


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top": 4}, "top: expected at most 3, the experts, but got 4"),
        ({"experts": 2}, "experts: expected at least 3, one for each model, but got 2"),
        ({"layout": "qwen3_moe"}, "layout: expected mixtral or qwen2_moe for a base of llama"),
        ({"layout": "mixtral", "every": 2}, "every: 2: Mixtral has experts in every layer"),
        ({"layout": "mixtral", "shared": 0.5}, "shared: 0.5: mixtral has no shared expert"),
    ],
)
def test_settings_that_do_not_go_together_are_named(
    llama: dict[str, str], change: dict[str, Any], message: str
) -> None:
    recipe = Recipe.from_dict(document(llama, "a", "b", "c", **change))
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        plan(recipe, open_parents(recipe.model_names).checkpoints)


def test_a_router_by_rows_needs_rows(llama: dict[str, str], tmp_path: Path) -> None:
    recipe = Recipe.from_dict(document(llama, "a", "b", router="hidden"))
    with pytest.raises(UserError, match=r"router: hidden needs rows of each model, and .*/a has"):
        em.build(recipe, tmp_path / "out")


def test_a_base_without_a_mixture_is_named(tmp_path: Path) -> None:
    family = make_family(tmp_path, "gpt2", names=("a",))
    recipe = Recipe.from_dict(document(family, "a", top=1))
    with pytest.raises(UserError, match="expected a base of llama, mistral, qwen2, qwen3"):
        plan(recipe, open_parents(recipe.model_names).checkpoints)


def test_a_config_that_a_mixture_cannot_keep_is_named(tmp_path: Path) -> None:
    family = make_family(tmp_path, names=("a",))
    for folder in family.values():
        file = Path(folder) / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "attention_bias": True}))
    recipe = Recipe.from_dict(document(family, "a", top=1, layout="mixtral"))
    with pytest.raises(UserError, match="its attention_bias is True, which mixtral has no place"):
        plan(recipe, open_parents(recipe.model_names).checkpoints)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["parameters"].update(top=[1, 2]), "parameters.top: expected one value"),
        (
            lambda d: d.update(blocks=[{"layers": [0, 1], "merge_method": "linear"}]),
            "expected blocks of moe alone",
        ),
        (
            lambda d: d.update(blocks=[{"layers": [0, 1], "parameters": {"top": 1}}]),
            r"blocks\[0\].parameters.top: it holds for the whole model",
        ),
        (lambda d: d.pop("base_model"), "moe needs a base_model"),
        (lambda d: d.update(heads="base"), "heads and unmatched do not go with moe"),
    ],
)
def test_what_a_whole_model_has_once_is_refused_in_parts(
    llama: dict[str, str], change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    written = document(llama, "a", "b")
    change(written)
    with pytest.raises(UserError, match=message):
        Recipe.from_dict(written)
