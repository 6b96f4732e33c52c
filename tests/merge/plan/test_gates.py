"""Twin-Merging, WEMoE and MoLE: gates that weigh low-rank changes, live and in an export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, LlamaForCausalLM

import evomerge as em
from evomerge.calibration.statistics import Statistics
from evomerge.core.errors import UserError
from evomerge.evaluate.likelihood.attention import max_packed_length, packing_support
from evomerge.evaluate.likelihood.context_cache import context_cache_support
from evomerge.evaluate.model import load_model
from evomerge.evaluate.routed.modeling_routed import ByChanges, ByGate, Shares
from evomerge.merge.parents.nested import open_parents, with_merges
from evomerge.merge.plan.plan import plan
from evomerge.recipe.recipe import Recipe
from tests.adapters import make_adapter, merged_by_peft
from tests.models import load, make_family, near

TOKENS = torch.tensor([[1, 5, 9, 14, 20, 3], [1, 6, 7, 30, 31, 8]])
TEXTS = {"a": ["w1 w2 w3 w1", "w5 w5 w9 w2 w1"], "b": ["w30 w8 w7", "w11 w12 w13 w14 w15"]}
GATED = ("twin_merging", "wemoe", "mole")


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("family")
    made = make_family(folder, names=(), tied=True)
    base = Path(made["base"])
    config = json.loads((base / "config.json").read_text())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig.from_dict({**config, "num_key_value_heads": 2}))
    model.save_pretrained(base)  # every matrix has 16 rows or more
    for seed, name in enumerate("ab"):
        made[name] = str(near(base, folder / name, seed=seed, scale=0.3))
    for name, texts in TEXTS.items():
        lines = [json.dumps({"text": text}) for text in texts]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return {**made, "folder": str(folder)}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "cache"))


def document(
    family: dict[str, str], method: str, models: str = "ab", base: Any = None, **parameters: Any
) -> dict[str, Any]:
    entries: list[dict[str, Any]] = [{"model": family[name]} for name in models]
    if parameters.get("train", True):
        for entry, name in zip(entries, models, strict=True):
            entry["data"] = f"{family['folder']}/{name}.jsonl"
    return {
        "merge_method": method,
        "base_model": base or family["base"],
        "models": entries,
        "parameters": {"rank": 8, **parameters},
        "dtype": "float32",
    }


def built(written: dict[str, Any], out: Path) -> Any:
    em.build(Recipe.from_dict(written), out)
    return loaded(out)


def loaded(out: Path) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)
    return model.eval()


def logits(model: Any, tokens: Tensor = TOKENS, **more: Any) -> Tensor:
    with torch.inference_mode():
        result: Tensor = model(input_ids=tokens, **more).logits
    return result


def arithmetic(family: dict[str, str], *weights: float) -> dict[str, Any]:
    models = [
        {"model": family[name], "parameters": {"weight": weight}}
        for name, weight in zip("ab", weights, strict=True)
    ]
    base = family["base"]
    return {"merge_method": "task_arithmetic", "base_model": base, "models": models}


def dense(written: dict[str, Any], out: Path) -> Tensor:
    em.build(Recipe.from_dict({**written, "dtype": "float32"}), out)
    return logits(load_model(out)[0])


def test_constant_gates_are_task_arithmetic(family: dict[str, str], tmp_path: Path) -> None:
    parameters: dict[str, Any] = {"lambda": 0.4}
    constant = document(family, "wemoe", rank=16, train=False, **parameters)
    expected = dense(arithmetic(family, 0.4, 0.4), tmp_path / "ta")
    torch.testing.assert_close(
        logits(built(constant, tmp_path / "out")), expected, atol=1e-5, rtol=1e-5
    )


def test_zero_logits_are_the_mean_of_the_models(family: dict[str, str], tmp_path: Path) -> None:
    expected = dense(arithmetic(family, 0.5, 0.5), tmp_path / "ta")
    for method in ("mole", "twin_merging"):
        mean = document(family, method, rank=16, train=False, rest="average")
        torch.testing.assert_close(
            logits(built(mean, tmp_path / method)), expected, atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("method", ["twin_merging", "mole"])
def test_one_model_at_full_rank_is_that_model(
    family: dict[str, str], tmp_path: Path, method: str
) -> None:
    alone = document(family, method, "a", rank=16, train=False, rest="average")
    expected = logits(load_model(family["a"])[0])
    torch.testing.assert_close(
        logits(built(alone, tmp_path / "out")), expected, atol=1e-5, rtol=1e-5
    )


def test_zero_logits_are_the_mean_of_adapters_at_their_rank(
    family: dict[str, str], tmp_path: Path
) -> None:
    folders = [make_adapter(tmp_path / str(n), family["base"], seed=n) for n in (1, 2)]
    names = {f"{n}": f"{family['base']}+{folder}" for n, folder in enumerate(folders)}
    mixed = document({**family, **names}, "mole", "01", rank=4, train=False)
    base, model = load(family["base"]), load_model(family["base"])[0]
    merged = [merged_by_peft(family["base"], folder) for folder in folders]
    state = model.state_dict()
    for name, tensor in base.items():
        changed = sum(one[name] - tensor for one in merged)
        state[name].copy_(tensor + changed / 2)
    torch.testing.assert_close(
        logits(built(mixed, tmp_path / "out")), logits(model), atol=1e-5, rtol=1e-5
    )


def test_a_gate_that_is_sure_of_a_model_is_that_model(
    family: dict[str, str], tmp_path: Path
) -> None:
    """Twin-Merging over a merge: all of what b has beyond it, norms and embeddings aside."""
    shared = arithmetic(family, 0.3, 0.3)
    written = document(family, "twin_merging", base=shared, rank=16, train=False)
    model = built(written, tmp_path / "out")
    b = load(family["b"])
    model.router.last.bias.data.copy_(torch.tensor([-50.0, 50.0]))
    em.build(Recipe.from_dict({**shared, "dtype": "float32"}), tmp_path / "shared")
    expected, _ = load_model(tmp_path / "shared")
    state = expected.state_dict()
    for name, tensor in b.items():
        if "proj" in name:
            state[name].copy_(tensor)
    torch.testing.assert_close(logits(model), logits(expected), atol=1e-5, rtol=1e-5)


def test_a_gates_changes_are_worked_by_hand() -> None:
    """MoLE's formula on two changes of rank 2, and shares that a gate outside the layer says."""
    draw = torch.Generator().manual_seed(0)
    linear, x = nn.Linear(6, 5), torch.randn(3, 6, generator=draw)
    v = torch.linalg.qr(torch.randn(2, 6, 2, generator=draw)).Q.mT
    us = torch.randn(2, 5, 2, generator=draw)
    g, biases = torch.randn(2, 4, generator=draw), torch.randn(2, 5, generator=draw)
    layer = ByChanges(linear, 2, 2)
    layer.weight, layer.bias = linear.weight, linear.bias
    layer.expert_in.data, layer.expert_out.data, layer.gate_weight.data = v, us, g
    assert layer.expert_bias is not None
    layer.expert_bias.data = biases
    for i in range(3):
        h = [v[e] @ x[i] for e in range(2)]
        z = torch.cat([us[e].norm(dim=0) * h[e] for e in range(2)])
        p = torch.softmax(g @ (z / z.square().mean().sqrt()), 0)
        expected = linear(x[i]) + sum(p[e] * (us[e] @ h[e] + biases[e]) for e in range(2))
        torch.testing.assert_close(layer(x)[i], expected)
    said = Shares()
    outside = ByGate(linear, 2, 2, said)
    outside.load_state_dict({k: v for k, v in layer.state_dict().items() if "gate" not in k})
    torch.testing.assert_close(outside(x), linear(x))
    said.value = torch.tensor([0.25, -1.0]).expand(3, 2)
    changes = [linear(x) + x @ v[e].T @ us[e].T + biases[e] - linear(x) for e in range(2)]
    torch.testing.assert_close(outside(x), linear(x) + 0.25 * changes[0] - changes[1])


@pytest.mark.parametrize("method", GATED)
def test_what_is_read_does_not_depend_on_caches_padding_or_what_comes_after(
    family: dict[str, str], tmp_path: Path, method: str
) -> None:
    # In float64: a trained gate may make much of a difference in the last bit.
    model = built(document(family, method, steps=30, rate=0.3), tmp_path / "out").double()
    whole = logits(model)
    untrained = logits(built(document(family, method, train=False), tmp_path / "constant"))
    assert not torch.allclose(whole.float(), untrained, atol=1e-3)

    def near(mine: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(mine, expected, atol=1e-6, rtol=1e-6)

    near(logits(model, TOKENS[:, :4]), whole[:, :4])
    near(logits(model, use_cache=False), whole)
    cache = DynamicCache(config=model.config)
    steps = [logits(model, TOKENS[:, i : i + 1], cache=cache, use_cache=True) for i in range(6)]
    near(torch.cat(steps, dim=1), whole)
    padded = torch.cat((torch.zeros(2, 3, dtype=torch.long), TOKENS), dim=1)
    mask = (torch.arange(9) >= 3).long().expand(2, -1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    near(logits(model, padded, attention_mask=mask, position_ids=positions)[:, 3:], whole)
    assert packing_support(model).max_length > 0
    support = context_cache_support(model)
    assert support.max_length > 0
    assert support.prefixes
    model.generation_config.eos_token_id = None
    text = model.generate(TOKENS, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert torch.equal(logits(model, text[:, :-1])[:, 5:].argmax(-1), text[:, 6:])


@pytest.mark.parametrize("method", GATED)
def test_a_live_model_has_its_exports_weights_and_logits(
    family: dict[str, str], tmp_path: Path, method: str
) -> None:
    from evomerge.evaluate.live import LiveModels
    from evomerge.merge.build import fill, live_digest

    recipe = Recipe.from_dict(document(family, method, scale=1.2, steps=20))
    digest = em.build(recipe, tmp_path / "out")
    parents = open_parents(recipe.model_names)
    parents.provider = Statistics(parents)
    parents = with_merges(recipe, parents)
    made = plan(recipe, parents.checkpoints)
    base = parents.opened[family["base"]]
    models = LiveModels(base.folder, base.config, "float32", ["cpu"], False, False)
    live = models.of(made.config).model
    assert max_packed_length(live) > 0
    fill(live, made, parents)
    assert live_digest(live, made, parents) == digest
    exported = loaded(tmp_path / "out")
    assert torch.equal(logits(live), logits(exported))
    assert type(exported).__name__ == "RoutedLlamaForCausalLM"
    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=False)


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("wemoe", {"rank": 17}, "wemoe: rank: expected at most 16, since model.layers.0.mlp"),
        ("mole", {"rank": 0}, "mole: rank"),
        ("twin_merging", {"top": 1}, "unknown parameter of twin_merging 'top'"),
    ],
)
def test_mistakes_are_named(
    family: dict[str, str], method: str, change: dict[str, Any], message: str
) -> None:
    def planned() -> None:
        recipe = Recipe.from_dict(document(family, method, **change))
        plan(recipe, open_parents(recipe.model_names).checkpoints)

    with pytest.raises(UserError, match=message):
        planned()


def test_gates_that_are_trained_need_rows(family: dict[str, str], tmp_path: Path) -> None:
    written = document(family, "mole")
    del written["models"][1]["data"]
    with pytest.raises(UserError, match="train: true needs rows of each model"):
        em.build(Recipe.from_dict(written), tmp_path / "out")
