"""The card says the parents' licences, and what follows from them."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id

from evomerge.merge.output.card import model_card
from evomerge.recipe.recipe import Recipe
from tests.models import make_family


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("family"))


@pytest.fixture
def models(family, tmp_path):
    """A copy of the family, and a recipe that merges it."""
    copies = {name: shutil.copytree(path, tmp_path / name) for name, path in family.items()}
    recipe = Recipe.from_dict(
        {
            "merge_method": "task_arithmetic",
            "base_model": str(copies["base"]),
            "models": [
                {"model": str(copies[name]), "parameters": {"weight": 0.5}} for name in ("a", "b")
            ],
            "dtype": "float32",
        }
    )
    return {name: Path(path) for name, path in copies.items()}, recipe


def licensed(model, text):
    (model / "README.md").write_text(f"---\n{text}\n---\n# Model\n")


def test_one_licence_of_all_parents_is_the_merges(models):
    folders, recipe = models
    for folder in folders.values():
        licensed(folder, "license: apache-2.0\ntags: [x]")
    card = ModelCard(model_card(recipe))
    assert card.data.license == "apache-2.0"
    assert "- a (apache-2.0)" in card.text
    assert "licences differ" not in card.text


def test_licences_that_differ_are_told_and_none_is_chosen(models):
    folders, recipe = models
    licensed(folders["base"], "license: other\nlicense_name: llama3")
    licensed(folders["a"], "license: mit")
    licensed(folders["b"], "license: mit")
    card = ModelCard(model_card(recipe))
    assert card.data.license is None
    assert "- base (base) (llama3)" in card.text
    assert "The parents' licences differ" in card.text


@pytest.mark.parametrize("text", ["license: [mit]", "license: mit: x", "tags: {a: b}", "# none"])
def test_a_card_that_says_none_is_an_unknown_licence(models, text):
    folders, recipe = models
    licensed(folders["base"], "license: mit")
    licensed(folders["a"], "license: mit")
    licensed(folders["b"], text)
    assert "No licence is stated by b; a merge is bound by its parents'." in model_card(recipe)


def test_methods_of_merges_inside_the_merge_are_cited_too(models):
    folders, recipe = models
    inner = {"merge_method": "slerp", "base_model": str(folders["a"]), "parameters": {"t": 0.5}}
    inner |= {"models": [{"model": str(folders["a"])}, {"model": str(folders["b"])}]}
    document = {**recipe.to_dict(), "merges": {"both": inner}}
    document["models"] = [{"model": "both", "parameters": {"weight": 0.5}}]
    card = model_card(Recipe.from_dict(document))
    assert "- `slerp`: Shoemake 1985" in card
    assert "- `task_arithmetic`: Ilharco 2022" in card


def test_a_card_names_repositories_of_the_hub_without_revisions_and_no_local_folder() -> None:
    recipe = Recipe.from_dict(
        {
            "merge_method": "linear",
            "models": [
                {"model": "org/one@v1", "parameters": {"weight": 1}},
                {"model": "org/one+org/adapter", "parameters": {"weight": 1}},
                {"model": "/models/expert-ja", "parameters": {"weight": 1}},
            ],
            "dtype": "float32",
        }
    )
    card = ModelCard(model_card(recipe))
    assert card.data.base_model == ["org/one", "org/adapter"]
    assert card.data.base_model_relation == "merge"
    for name in card.data.base_model:
        validate_repo_id(name)
    assert "- expert-ja" in card.text
