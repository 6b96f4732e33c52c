"""A merge of adapters as one adapter: PEFT loads it and makes the merged model of it."""

import json

import pytest
import torch

from evomerge.core.errors import UserError
from evomerge.merge.build import build
from evomerge.merge.output.merged_adapter import are_adapters, write_merged_adapter
from evomerge.merge.parents.nested import open_parents, with_merges
from evomerge.recipe.recipe import Recipe
from tests.adapters import make_adapter, merged_by_peft
from tests.models import load, make_model, near

TARGETS = {"llama": ["q_proj", "v_proj", "down_proj"], "gpt2": ["c_attn", "c_proj"]}


@pytest.fixture(scope="module", params=TARGETS)
def zoo(request, tmp_path_factory):
    """A base, and two adapters on it of ranks 3 and 2 on different layers."""
    folder = tmp_path_factory.mktemp(request.param)
    base = make_model(folder / "base", request.param)
    targets = TARGETS[request.param]
    one = make_adapter(folder / "one", base, seed=1, r=3, target_modules=targets)
    two = make_adapter(folder / "two", base, seed=2, r=2, target_modules=targets[:1])
    return base, one, two


def recipe_of(base, models, method="task_arithmetic", weights=(0.7, -0.4), **keys):
    entries = [
        {"model": f"{base}+{model}", "parameters": {"weight": weight}}
        for model, weight in zip(models, weights, strict=False)
    ]
    return Recipe.from_dict(
        {"merge_method": method, "base_model": str(base), "models": entries, **keys}
    )


def written(recipe, base, out, rank=None):
    parents = with_merges(recipe, open_parents(recipe.model_names))
    parents.check(recipe)
    return write_merged_adapter(recipe, parents, str(base), out, rank)


def check_peft(recipe, base, adapter, folder, tolerance=1e-5):
    """What PEFT merges is what the recipe builds."""
    build(recipe, folder)
    made = merged_by_peft(base, adapter)
    for name, tensor in load(folder).items():
        torch.testing.assert_close(made[name], tensor, rtol=tolerance, atol=tolerance)


def test_task_arithmetic_becomes_an_exact_adapter_of_the_summed_ranks(zoo, tmp_path):
    base, one, two = zoo
    recipe = recipe_of(base, (one, two))
    adapter = written(recipe, base, tmp_path / "adapter")
    assert adapter.exact
    assert adapter.rank == 5, "3 + 2 where both adapt a layer"
    assert adapter.sentence == "rank 5, exact"
    check_peft(recipe, base, tmp_path / "adapter", tmp_path / "model")
    ranks = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["rank_pattern"]
    assert set(ranks.values()) == {3}, "layers that one adapter leaves alone"


@pytest.mark.parametrize("method", ["linear", "model_stock", "nuslerp"])
def test_whatever_adds_the_deltas_up_is_exact_without_being_known(zoo, tmp_path, method):
    base, one, two = zoo
    document = recipe_of(base, (one, two), "linear", (3.0, 1.0)).to_dict()
    if method == "model_stock":
        document["models"] = [entry["model"] for entry in document["models"]]
    recipe = Recipe.from_dict({**document, "merge_method": method})
    adapter = written(recipe, base, tmp_path / "adapter")
    assert adapter.exact
    assert adapter.error == 0
    check_peft(recipe, base, tmp_path / "adapter", tmp_path / "model")


def test_a_lower_rank_is_cut_and_its_error_is_that_of_the_best_matrix(zoo, tmp_path):
    base, one, two = zoo
    recipe = recipe_of(base, (one, two))
    adapter = written(recipe, base, tmp_path / "adapter", rank=2)
    build(recipe, tmp_path / "model")
    before, after = load(base), load(tmp_path / "model")
    made = merged_by_peft(base, tmp_path / "adapter")
    missed = whole = best = 0.0
    for name, tensor in after.items():
        delta = (tensor - before[name]).double()
        missed += float((made[name] - tensor).double().norm() ** 2)
        whole += float(delta.norm() ** 2)
        if delta.dim() == 2:
            best += float((torch.linalg.svdvals(delta)[2:] ** 2).sum())
    assert adapter.rank == 2
    assert not adapter.exact
    assert adapter.error == pytest.approx((missed / whole) ** 0.5, rel=1e-3)
    assert adapter.error == pytest.approx((best / whole) ** 0.5, rel=1e-3)
    assert adapter.sentence.startswith("rank 2, misses ")


def test_ties_is_no_sum_and_says_what_it_misses(zoo, tmp_path):
    base, one, two = zoo
    recipe = recipe_of(base, (one, two), "ties", (1.0, 1.0), parameters={"density": 0.3})
    adapter = written(recipe, base, tmp_path / "adapter")
    assert not adapter.exact
    assert 0.01 < adapter.error < 1
    full = written(recipe, base, tmp_path / "full", rank=64)
    assert full.error < 1e-5
    check_peft(recipe, base, tmp_path / "full", tmp_path / "model", 1e-4)


def test_modules_biases_and_embeddings_go_along(tmp_path):
    base = make_model(tmp_path / "base")
    whole = make_adapter(tmp_path / "whole", base, modules_to_save=["lm_head", "norm"])
    rows = make_adapter(tmp_path / "rows", base, seed=2, target_modules=["embed_tokens", "q_proj"])
    recipe = recipe_of(base, (whole, rows))
    adapter = written(recipe, base, tmp_path / "adapter")
    assert adapter.exact
    check_peft(recipe, base, tmp_path / "adapter", tmp_path / "model")
    base = make_model(tmp_path / "gpt2", "gpt2")
    settings = {"target_modules": ["c_attn"], "bias": "all"}
    models = [make_adapter(tmp_path / f"{i}", base, seed=i, **settings) for i in (1, 2)]
    recipe = recipe_of(base, models)
    assert written(recipe, base, tmp_path / "biases").exact
    check_peft(recipe, base, tmp_path / "biases", tmp_path / "gpt2-model")


def test_stacked_adapters_are_one_change_of_the_model_below(tmp_path):
    base = make_model(tmp_path / "base")
    one = make_adapter(tmp_path / "one", base, seed=1)
    two = make_adapter(tmp_path / "two", base, seed=2)
    stacked = f"{base}+{one}+{two}"
    recipe = Recipe.from_dict({"merge_method": "passthrough", "models": [stacked]})
    assert written(recipe, base, tmp_path / "adapter").sentence == "rank 8, exact"
    check_peft(recipe, base, tmp_path / "adapter", tmp_path / "model")


def test_what_no_adapter_can_say_is_refused(tmp_path):
    base = make_model(tmp_path / "base")
    one = make_adapter(tmp_path / "one", base)
    layers = [{"model": f"{base}+{one}", "layer_range": [0, 2]}]
    stack = Recipe.from_dict(
        {"merge_method": "passthrough", "slices": [{"sources": layers}, {"sources": layers}]}
    )
    with pytest.raises(UserError, match=r"layers\.2\..* there is none: no adapter can say that"):
        written(stack, base, tmp_path / "out")
    same = Recipe.from_dict({"merge_method": "passthrough", "models": [str(base)]})
    with pytest.raises(UserError, match=r"the recipe leaves .*base as it is"):
        written(same, base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_whole_fine_tune_is_no_adapter(tmp_path):
    base = make_model(tmp_path / "base")
    tuned = near(base, tmp_path / "tuned", seed=3)
    assert not are_adapters(str(base), [f"{base}+one", str(tuned)])
    assert are_adapters(f"{base}+zero", [f"{base}+one", f"{base}+zero"])
    assert not are_adapters(str(base), [str(base)])
