"""Recipes in recipes: made in memory, equal to what building them one after the other gives."""

import importlib
import json
import shutil

import pytest
import torch
import yaml

from evomerge.checkpoint.opening import open_model
from evomerge.core.errors import UserError
from evomerge.merge.build import build, fill, live_tensors
from evomerge.merge.digest import digest
from evomerge.merge.parents.nested import open_parents, with_merges
from evomerge.merge.plan.plan import plan
from evomerge.recipe.mergekit.to_mergekit import as_yaml, to_mergekit
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.space.space import SearchSpace
from tests.merge.merging import load_live
from tests.models import load

nested_module = importlib.import_module("evomerge.merge.parents.nested")
SOUP = {"merge_method": "linear", "parameters": {"weight": 1.0}, "out_dtype": "bfloat16"}


def soup(llama, *names, **more):
    return {**SOUP, "base_model": llama["base"], "models": [llama[n] for n in names], **more}


def outer(llama, model, **more):
    return {
        "merge_method": "ties",
        "base_model": llama["base"],
        "models": [model, llama["c"]],
        "parameters": {"weight": 0.7, "density": 0.5},
        **more,
    }


def test_a_nested_merge_is_what_two_builds_give(llama, tmp_path):
    nested = Recipe.from_dict(outer(llama, {"model": soup(llama, "a", "b")}))
    build(Recipe.from_dict(soup(llama, "a", "b")), tmp_path / "soup")
    by_hand = build(Recipe.from_dict(outer(llama, str(tmp_path / "soup"))), tmp_path / "twice")
    assert build(nested, tmp_path / "nested") == by_hand
    live = load_live(llama["base"])
    parents = with_merges(nested, open_parents(nested.model_names))
    built = plan(nested, parents.checkpoints)
    fill(live, built, parents)
    assert digest(live_tensors(live, built).items()) == by_hand
    assert set(nested.model_names) == {llama[name] for name in ("a", "b", "c", "base")}


def test_each_tensor_of_each_merge_is_made_once_however_often_it_is_used(
    llama, tmp_path, monkeypatch
):
    made = []
    original = nested_module.merged

    def counted(job, parents, recipe):
        made.append((recipe.digest, job.name))
        return original(job, parents, recipe)

    monkeypatch.setattr(nested_module, "merged", counted)
    average = {"merge_method": "linear", "parameters": {"weight": 1.0}}
    document = {
        **average,
        "merges": {
            "one": {**average, "models": [llama["a"], llama["b"]]},
            "two": {**average, "models": ["one", llama["c"]]},
        },
        "models": ["one", "two"],
    }
    build(Recipe.from_dict(document), tmp_path / "out")
    assert len(made) == len(set(made)) == 2 * len(load(llama["a"]))


def test_a_merge_becomes_a_new_base(llama, tmp_path):
    # Choshen 2022: the average of fine-tunes is what further deltas are taken from and added to.
    nested = Recipe.from_dict(
        {
            "merges": {"fused": soup(llama, "a", "b", out_dtype="float32")},
            "merge_method": "task_arithmetic",
            "base_model": "fused",
            "models": [{"model": llama["c"], "parameters": {"weight": 0.5}}],
        }
    )
    build(nested, tmp_path / "out")
    a, b, c, merged = (load(f) for f in (*(llama[n] for n in "abc"), tmp_path / "out"))
    for name in merged:
        fused = (a[name].double() + b[name].double()) / 2
        expected = fused + 0.5 * (c[name].double() - fused)
        torch.testing.assert_close(merged[name].double(), expected, rtol=1e-6, atol=1e-6)
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_every_way_of_writing_a_nested_recipe_gives_one_recipe(llama, tmp_path):
    inner = soup(llama, "a", "b")
    forms = {
        "inline": [outer(llama, {"model": inner})],
        "named": [{"merges": {"first": inner}, **outer(llama, "first")}],
        "otherwise": [{"merges": {"second": inner}, **outer(llama, {"model": "second"})}],
        "documents": [{"name": "stage", **inner}, outer(llama, "stage")],
        "last": [{"name": "stage", **inner}, {"name": "result", **outer(llama, "stage")}],
        "file": [outer(llama, "inner.yaml")],
        "file in a mapping": [outer(llama, {"model": "inner.yaml"})],
    }
    (tmp_path / "inner.yaml").write_text(yaml.safe_dump(inner))
    digests = set()
    for name, documents in forms.items():
        file = tmp_path / f"{name}.yml"
        file.write_text(yaml.safe_dump_all(documents, sort_keys=False))
        recipe = Recipe.from_yaml(file)
        assert Recipe.from_dict(recipe.to_dict()) == recipe
        assert Recipe.from_yaml(_written(recipe, tmp_path / "again.yml")) == recipe
        digests.add(recipe.digest)
    assert len(digests) == 1
    other = outer(llama, {"model": soup(llama, "a", "b", dtype="bfloat16")})
    assert Recipe.from_dict(other).digest not in digests


def _written(recipe, file):
    recipe.to_yaml(file)
    return file


def test_merges_of_merges_are_made_in_the_order_that_they_need(llama, tmp_path):
    average = {"merge_method": "linear", "parameters": {"weight": 1.0}}
    nested = Recipe.from_dict(
        {
            **average,
            "merges": {
                "last": {**average, "models": ["first", llama["c"]]},
                "first": {**average, "models": [llama["a"], llama["b"]]},
            },
            "models": ["last", "first"],
        }
    )
    assert list(nested.merges) == ["first", "last"]
    build(nested, tmp_path / "out")
    a, b, c, merged = (load(f) for f in (*(llama[n] for n in "abc"), tmp_path / "out"))
    for name, tensor in merged.items():
        # last = (a + b) / 4 + c / 2, and half of that with half of (a + b) / 2
        expected = 3 / 8 * (a[name].double() + b[name].double()) + c[name].double() / 4
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-6)


def test_a_stack_of_layers_can_be_merged_on(llama, tmp_path):
    stack = {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": llama["a"], "layer_range": [0, 2]}]},
            {"sources": [{"model": llama["b"], "layer_range": [1, 3]}]},
        ],
    }
    document = {
        "merges": {"a-first": stack, "halved": {**stack, "parameters": {"scale": 0.5}}},
        "merge_method": "linear",
        "models": ["a-first", "halved"],
        "parameters": {"weight": 1.0},
    }
    build(Recipe.from_dict(document), tmp_path / "out")
    build(Recipe.from_dict(stack), tmp_path / "stack")
    one, merged = load(tmp_path / "stack"), load(tmp_path / "out")
    assert merged.keys() == one.keys()
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, 0.75 * one[name])
    assert load_live(tmp_path / "out").config.num_hidden_layers == 4


def test_a_recipes_file_is_a_parent_like_any_other(llama, tmp_path):
    file = _written(Recipe.from_dict(soup(llama, "a", "b")), tmp_path / "soup.yaml")
    recipe = Recipe.from_dict(outer(llama, str(file)))
    parents = open_parents(recipe.model_names)
    made = digest(
        (job.name, parents.checkpoints[str(file)].tensor(job.name))
        for job in plan(recipe, parents.checkpoints).jobs
    )
    assert made == build(Recipe.from_yaml(file), tmp_path / "soup")
    first = parents.checkpoints[str(file)].fingerprint
    _written(Recipe.from_dict(soup(llama, "a", "b", dtype="bfloat16")), file)
    assert open_parents([str(file)]).checkpoints[str(file)].fingerprint != first
    _written(Recipe.from_dict(soup(llama, "a", "c")), file)
    assert open_parents([str(file)]).checkpoints[str(file)].fingerprint != first


def test_a_recipe_made_of_itself_is_refused(llama, tmp_path):
    average = {"merge_method": "linear", "parameters": {"weight": 1.0}}
    circle = {
        **average,
        "merges": {
            "x": {**average, "models": ["y", llama["a"]]},
            "y": {**average, "models": ["x", llama["b"]]},
        },
        "models": ["x", llama["c"]],
    }
    with pytest.raises(UserError, match=r"merges: . → . → .: a merge cannot be made of itself"):
        Recipe.from_dict(circle)
    (tmp_path / "one.yaml").write_text(yaml.safe_dump({**average, "models": ["two.yaml"]}))
    (tmp_path / "two.yaml").write_text(yaml.safe_dump({**average, "models": ["one.yaml"]}))
    with pytest.raises(UserError, match=r"one\.yaml → two\.yaml → one\.yaml: a merge cannot be"):
        Recipe.from_yaml(tmp_path / "one.yaml")
    deep = llama["a"]
    for _ in range(30):
        deep = {**average, "models": [{"model": deep}]}
    with pytest.raises(UserError, match="nested more than 20 deep"):
        Recipe.from_dict(deep)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"merges": {"idle": SOUP}}, "merges: idle is used by nothing"),
        ({"merges": {"a/b": SOUP}}, "merges.a/b: expected a name that is no path"),
        ({"merges": {"x": {**SOUP, "wieght": 1}}, "models": ["x"]}, "merges.x: unknown key 'wiegh"),
        ({"merges": [SOUP]}, "merges: expected a mapping"),
        ({"models": [{"model": {**SOUP, "models": []}}]}, "expected either models or slices"),
    ],
)
def test_mistakes_in_merges_are_named(document, message):
    whole = {**SOUP, "models": ["org/a", "org/b"], **document}
    whole["merges"] = document.get("merges", {})
    if isinstance(whole["merges"], dict):
        whole["merges"] = {
            name: {"models": ["org/c"], **inner} for name, inner in whole["merges"].items()
        }
    with pytest.raises(UserError) as caught:
        Recipe.from_dict(whole)
    assert message in str(caught.value)


def test_documents_must_say_which_is_the_result(tmp_path):
    file = tmp_path / "two.yaml"
    documents = [{**SOUP, "models": ["org/a"]}, {**SOUP, "models": ["org/b"]}]
    file.write_text(yaml.safe_dump_all(documents))
    with pytest.raises(UserError, match="expected a name in every document but one"):
        Recipe.from_yaml(file)
    documents = [{"name": "x", **documents[0]}] * 2 + [{**SOUP, "models": ["x"]}]
    file.write_text(yaml.safe_dump_all(documents))
    with pytest.raises(UserError, match="two documents have the name x"):
        Recipe.from_yaml(file)


def test_a_merge_inside_a_space_is_searched_too():
    space = SearchSpace.from_dict(
        {
            "merges": {
                "soup": {
                    "merge_method": {"choice": ["linear", "ties"]},
                    "models": [
                        {"model": "*1", "parameters": {"weight": "search", "density": "search"}},
                        {"model": "*2", "parameters": {"weight": 1.0}},
                    ],
                }
            },
            "merge_method": "slerp",
            "base_model": "soup",
            "models": ["soup", "*3"],
            "parameters": {"t": {"low": 0.2, "high": 0.8}},
        }
    ).bind("org/base", ["org/one", "org/two", "org/three"])
    names = [dimension.name for dimension in space.dimensions]
    assert names == [
        "merges.soup.merge_method",
        "merges.soup.models[one].weight",
        "merges.soup.models[one].density",
        "t",
    ]
    linear, ties = space.fill(("linear", 0.5, 0.5, 0.3)), space.fill(("ties", 0.5, 0.5, 0.3))
    assert linear.merges["soup"].models[0].parameters == {"weight": 0.5}
    assert ties.merges["soup"].models[0].parameters == {"weight": 0.5, "density": 0.5}
    assert ties.merges["soup"].base_model == "org/base"
    assert len({linear.digest, ties.digest, space.fill(("ties", 0.5, 0.4, 0.3)).digest}) == 3


def test_a_merge_that_changes_the_vocabulary_is_built_by_itself_first(llama, tmp_path):
    wide = tmp_path / "wide"
    shutil.copytree(llama["a"], wide)
    document = json.loads((wide / "tokenizer.json").read_text())
    last = max(document["model"]["vocab"].values())
    rename = {"w35": "other"}
    document["model"]["vocab"] = {
        rename.get(token, token): number for token, number in document["model"]["vocab"].items()
    }
    (wide / "tokenizer.json").write_text(json.dumps(document))
    inner = soup({**llama, "a": str(wide)}, "a", "b", tokenizer_source="union")
    nested = Recipe.from_dict({"merges": {"united": inner}, **outer(llama, "united")})
    assert last == 39
    with pytest.raises(UserError, match=r"merges\.united: its tokenizer changes its models' voc"):
        build(nested, tmp_path / "out")


def test_mergekit_gets_a_document_for_each_merge(llama):
    nested = Recipe.from_dict({"merges": {"stage": soup(llama, "a", "b")}, **outer(llama, "stage")})
    names = list(open_model(llama["base"]).tensors)
    text = as_yaml(to_mergekit(nested, names))
    assert "mergekit-multi" in text.splitlines()[0]
    first, last = yaml.safe_load_all(text)
    assert first["name"] == "stage"
    assert "name" not in last
    assert [m["model"] for m in last["models"]] == ["stage", llama["c"], llama["base"]]
    assert (first["out_dtype"], last["out_dtype"]) == ("bfloat16", "float32")
    clash = Recipe.from_dict({"merges": {"ties": soup(llama, "a", "b")}, **outer(llama, "ties")})
    with pytest.raises(UserError, match=r"merges\.ties: mergekit-multi takes every ties in its"):
        to_mergekit(clash, names)
