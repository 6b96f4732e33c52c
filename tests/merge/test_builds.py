"""Recipes built in place, on disk and by transformers: the same weights, whatever the way."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import evomerge
from evomerge.checkpoint.files import shards
from evomerge.checkpoint.opening import open_model
from evomerge.core.errors import UserError
from evomerge.merge.build import build, fill, live_tensors, tensors, write
from evomerge.merge.digest import digest
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import plan
from evomerge.recipe.recipe import Recipe
from tests.merge.merging import load_live, logits, recipe_of
from tests.models import load, make_family


@pytest.mark.parametrize("method", ["ties", "dare_ties", "linear"])
def test_in_place_on_disk_and_loaded_afresh_are_one_model(family, method, tmp_path):
    recipe = recipe_of(family, method)
    parents = Parents(recipe.model_names)
    built = plan(recipe, parents.checkpoints)
    live = load_live(family["base"])
    before = logits(live)
    fill(live, built, parents)
    in_memory = digest(tensors(built, parents))
    assert build(recipe, tmp_path / "out") == in_memory
    assert digest(live_tensors(live, built).items()) == in_memory
    assert digest(load(tmp_path / "out").items()) == in_memory
    fresh = load_live(tmp_path / "out")
    assert torch.equal(logits(live), logits(fresh))
    assert not torch.equal(logits(live), before)
    assert fresh.state_dict().keys() == live.state_dict().keys()


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_recipe_is_built_from_its_file(llama, as_path, tmp_path):
    recipe = recipe_of(llama)
    recipe.to_yaml(tmp_path / "recipe.yaml")
    assert evomerge.build(as_path(tmp_path / "recipe.yaml"), out=tmp_path / "out") == build(
        recipe, tmp_path / "same"
    )


def test_a_recipe_that_is_no_file_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.yaml: expected .* there is no such file"):
        build(tmp_path / "nowhere.yaml", tmp_path / "out")
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}: expected a recipe's YAML file")):
        build(str(tmp_path), tmp_path / "out")


class NoKernels:
    """Kernels that can run nothing, and say so."""

    def run(self, operation, out):  # noqa: ARG002
        return False


def test_a_tensor_that_no_kernel_wrote_is_never_exported(llama, tmp_path):
    recipe = recipe_of(llama, "linear")
    parents = Parents(recipe.model_names)
    parents.kernels = NoKernels()
    with pytest.raises(RuntimeError, match=r"weight: expected a kernel to run linear"):
        write(plan(recipe, parents.checkpoints), parents, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_live_model_filled_again_is_as_if_filled_once(family):
    live = load_live(family["base"])
    first, second = recipe_of(family), recipe_of(family, "linear")
    parents = Parents(first.model_names)
    for recipe in (first, second, first):
        built = plan(recipe, parents.checkpoints)
        fill(live, built, parents)
        assert digest(live_tensors(live, built).items()) == digest(tensors(built, parents))


def test_the_parents_are_only_read(family, tmp_path):
    before = {name: open_model(folder).fingerprint for name, folder in family.items()}
    recipe = recipe_of(family, "linear")
    parents = Parents(recipe.model_names)
    fill(load_live(family["a"]), plan(recipe, parents.checkpoints), parents)
    build(recipe, tmp_path / "out")
    assert {n: open_model(folder).fingerprint for n, folder in family.items()} == before


def test_the_folder_holds_a_model_that_transformers_loads_whole(family, tmp_path):
    from transformers import AutoTokenizer

    recipe = recipe_of(family, out_dtype="bfloat16")
    build(recipe, tmp_path / "out")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= files
    assert {"README.md", "evomerge_recipe.yaml"} <= files
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert Recipe.from_yaml(tmp_path / "out" / "evomerge_recipe.yaml") == recipe
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("w3 w16").input_ids == [7, 20]
    assert {str(t.dtype) for t in load(tmp_path / "out").values()} == {"torch.bfloat16"}


def test_shards_are_cut_and_the_digest_stays(llama, tmp_path, monkeypatch):
    recipe = recipe_of(llama)
    whole = build(recipe, tmp_path / "whole")
    monkeypatch.setattr(shards, "SHARD_BYTES", 5000)
    assert build(recipe, tmp_path / "cut") == whole
    assert len(list((tmp_path / "cut").glob("model-*.safetensors"))) > 4
    assert digest(load(tmp_path / "cut").items()) == whole
    assert torch.equal(logits(load_live(tmp_path / "cut")), logits(load_live(tmp_path / "whole")))


def test_a_head_stored_beside_its_tied_embeddings_is_not_merged_twice(tmp_path):
    family = make_family(tmp_path, tied=True)
    tensors = load(family["base"])
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, Path(family["base"]) / "model.safetensors")
    recipe = recipe_of(family)
    parents = Parents(recipe.model_names)
    built = plan(recipe, parents.checkpoints)
    assert "lm_head.weight" not in {job.name for job in built.jobs}
    live = load_live(family["base"])
    fill(live, built, parents)
    assert live.lm_head.weight is live.model.embed_tokens.weight
    write(built, parents, tmp_path / "out")
    assert torch.equal(logits(load_live(tmp_path / "out")), logits(live))


def test_the_tokenizer_comes_from_the_model_that_is_named(llama, tmp_path):
    folder = tmp_path / "chat"
    shutil.copytree(llama["b"], folder)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    recipe = recipe_of({**llama, "b": str(folder)}, tokenizer_source=str(folder))
    build(recipe, tmp_path / "out")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"
    build(recipe_of(llama, tokenizer_source="base"), tmp_path / "plain")
    assert not (tmp_path / "plain" / "chat_template.jinja").exists()


def test_the_card_names_parents_and_papers_but_not_where_the_models_lay(llama, tmp_path):
    build(recipe_of(llama), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- base (base)" in card
    assert "https://arxiv.org/abs/2306.01708" in card
    assert str(Path(llama["a"]).parent) not in card
