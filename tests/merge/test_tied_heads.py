"""Heads tied to the embeddings: what transformers loads is what is merged, on disk and live."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GemmaConfig

from evomerge.checkpoint.opening import open_model
from evomerge.core.errors import UserError
from evomerge.evaluate.model import load_model, untie
from evomerge.merge.build import build, fill
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import plan
from evomerge.recipe.recipe import Recipe
from tests.merge.merging import load_live, logits
from tests.models import load, make_model, near, write_tokenizer

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def gemma(folder, *, seed):
    """A model whose config says nothing of tying, as the hub has it, and which is tied."""
    config = GemmaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    document = json.loads((folder / "config.json").read_text())
    document.pop("tie_word_embeddings", None)
    (folder / "config.json").write_text(json.dumps(document))
    write_tokenizer(folder)
    return folder


def store_head(folder, head=None):
    """Store a head beside the embeddings: a copy of them, or another one."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors[HEAD] = tensors[EMBEDDING].clone() if head is None else head
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.fixture
def family(tmp_path):
    """Three tied models: one stores no head, one a copy, one a head of its own."""
    plain = gemma(tmp_path / "plain", seed=1)
    copied = near(plain, tmp_path / "copied", seed=2, scale=0.2)
    apart = near(plain, tmp_path / "apart", seed=3, scale=0.2)
    store_head(copied)
    store_head(apart, torch.randn(40, 16, generator=torch.Generator().manual_seed(4)))
    return {path.name: str(path) for path in (plain, copied, apart)}


def of_one(model):
    return Recipe.from_dict({"merge_method": "passthrough", "models": [{"model": model}]})


@pytest.mark.parametrize("name", ["plain", "copied", "apart"])
def test_passing_a_model_through_gives_what_transformers_loads_of_it(name, family, tmp_path):
    build(of_one(family[name]), tmp_path / "out")
    assert torch.equal(logits(load_live(tmp_path / "out")), logits(load_live(family[name])))
    assert (HEAD in load(tmp_path / "out")) == (name == "apart")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config.get("tie_word_embeddings") is False) == (name == "apart")


@pytest.mark.parametrize("method", ["dare_linear", "della_linear", "linear"])
@pytest.mark.parametrize("names", [("plain", "copied"), ("copied", "plain"), ("plain", "apart")])
def test_the_model_on_disk_is_the_one_that_is_scored_in_place(method, names, family, tmp_path):
    settings = {"weight": 0.5} if method == "linear" else {"weight": 0.5, "density": 0.5}
    recipe = Recipe.from_dict(
        {
            "merge_method": method,
            "base_model": family["plain"],
            "models": [{"model": family[name], "parameters": settings} for name in names],
        }
    )
    parents = Parents(recipe.model_names)
    parents.check(recipe)
    live, _ = load_model(family["plain"])
    if "apart" in names:
        untie(live)
    fill(live, plan(recipe, parents.checkpoints), parents)
    build(recipe, tmp_path / "out")
    assert torch.equal(logits(live), logits(load_live(tmp_path / "out")))


def test_a_linear_merge_of_tied_and_untied_heads_is_the_mean_of_what_they_are_live(
    family, tmp_path
):
    recipe = Recipe.from_dict(
        {
            "merge_method": "linear",
            "base_model": family["copied"],
            "models": [{"model": family[name], "parameters": {"weight": 0.5}} for name in family],
            "parameters": {"normalize": True},
        }
    )
    build(recipe, tmp_path / "out")
    heads = [load_live(folder).lm_head.weight.double() for folder in family.values()]
    expected = torch.stack(heads).mean(0)
    torch.testing.assert_close(load_live(tmp_path / "out").lm_head.weight.double(), expected)


def test_an_untied_live_model_takes_every_tied_candidate_too(family):
    live, _ = load_model(family["plain"])
    untie(live)
    for name in ("apart", "copied", "plain"):
        recipe = of_one(family[name])
        parents = Parents(recipe.model_names)
        fill(live, plan(recipe, parents.checkpoints), parents)
        assert torch.equal(logits(live), logits(load_live(family[name])))


def test_a_tied_live_model_refuses_a_head_of_its_own(family):
    live, _ = load_model(family["plain"])
    recipe = of_one(family["apart"])
    parents = Parents(recipe.model_names)
    with pytest.raises(UserError, match=r"ties .* to .*, which differ in the merge"):
        fill(live, plan(recipe, parents.checkpoints), parents)


def test_an_untied_parent_joins_a_tied_base_of_another_folder(tmp_path):
    base = make_model(tmp_path / "base", tied=True)
    untied = make_model(tmp_path / "untied", seed=5)
    recipe = Recipe.from_dict(
        {
            "merge_method": "linear",
            "base_model": str(base),
            "models": [{"model": str(m), "parameters": {"weight": 0.5}} for m in (base, untied)],
        }
    )
    build(recipe, tmp_path / "out")
    heads = [load_live(folder).lm_head.weight for folder in (base, untied)]
    torch.testing.assert_close(load_live(tmp_path / "out").lm_head.weight, sum(heads) / 2)


def test_buffers_that_transformers_ignores_are_no_tensors_of_a_model(tmp_path):
    folder = make_model(tmp_path / "old")
    file = folder / "model.safetensors"
    old = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.rand(4) for i in range(2)}
    save_file({**load_file(file), **old}, file, metadata={"format": "pt"})
    assert not set(old) & set(open_model(folder).tensors)
    build(of_one(str(folder)), tmp_path / "out")
    assert not set(old) & set(load(tmp_path / "out"))
