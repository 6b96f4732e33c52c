"""Recipes as YAML files: paths, numbers, and files that are none."""

import pytest

from evomerge.core import yaml_file
from evomerge.core.errors import UserError
from evomerge.recipe.recipe import Recipe
from tests.recipe.test_read import SLERP, STACK, TIES


@pytest.mark.parametrize("document", [TIES, SLERP, STACK])
def test_yaml_gives_the_recipe_back(document, tmp_path):
    recipe = Recipe.from_dict(document)
    text = recipe.to_yaml(tmp_path / "recipe.yaml")
    assert (tmp_path / "recipe.yaml").read_text() == text
    again = Recipe.from_yaml(tmp_path / "recipe.yaml")
    assert again == recipe
    assert again.digest == recipe.digest


def test_folders_are_taken_relative_to_the_recipes_file(tmp_path):
    for name in ("base", "a"):
        (tmp_path / "zoo" / name).mkdir(parents=True)
    document = {
        "merge_method": "ties",
        "base_model": "zoo/base",
        "models": [{"model": "zoo/a", "parameters": {"weight": 1.0}}, "org/b"],
        "parameters": {"weight": 1.0},
        "tokenizer_source": "zoo/a",
    }
    (tmp_path / "recipe.yaml").write_text(yaml_file.write(document))
    recipe = Recipe.from_yaml(tmp_path / "recipe.yaml")
    zoo = tmp_path / "zoo"
    assert recipe.model_names == [str(zoo / "a"), "org/b", str(zoo / "base")]
    assert recipe.tokenizer_source == str(zoo / "a")


def test_the_word_base_is_not_taken_for_a_folder_of_that_name(tmp_path):
    (tmp_path / "base").mkdir()
    document = {**SLERP, "tokenizer_source": "base"}
    (tmp_path / "recipe.yaml").write_text(yaml_file.write(document))
    assert Recipe.from_yaml(tmp_path / "recipe.yaml").tokenizer_source == "base"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: *x\n", "line 2: not valid YAML: aliases are not read"),
        ("a: 1\nb: 2\na: 3\n", "line 3: not valid YAML: key 'a' appears twice"),
        ("a: {b: 1, b: 2}\n", "line 1: not valid YAML: key 'b' appears twice"),
        ("a: [1\n", "line 2: not valid YAML"),
        ("a: 1\n---\nb: 2\n", "expected a name in every document but one"),
        ("a: !!python/object/apply:os.getcwd []\n", "line 1: not valid YAML: could not determine"),
        ("a: 2024-99-99\n", "not valid YAML: month must be in"),
        ("a: " + "9" * 5000 + "\n", "not valid YAML: Exceeds the limit"),
        ("[" * 5000, "not valid YAML"),
        ("a: \x00\n", "not valid YAML"),
        ("? [1]\n: 2\n", "not valid YAML"),
        ("", "expected a mapping of names to values, but got None"),
    ],
)
def test_a_file_that_is_not_plain_yaml_is_told_with_its_line(text, message, tmp_path):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        Recipe.from_yaml(tmp_path / "recipe.yaml")
    assert str(caught.value).startswith(f"{tmp_path / 'recipe.yaml'}:")
    assert "\n" not in str(caught.value)


def test_a_missing_a_large_and_a_binary_file_are_told(tmp_path):
    file = tmp_path / "recipe.yaml"
    with pytest.raises(UserError, match=r"recipe\.yaml: no such file"):
        Recipe.from_yaml(file)
    file.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match=r"recipe\.yaml: expected UTF-8 text: invalid start byte"):
        Recipe.from_yaml(file)
    file.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(UserError, match="expected at most 1 MiB of YAML but it has 1048577 bytes"):
        Recipe.from_yaml(file)


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-3", 1e-3), ("1.5E+2", 150.0), (".5", 0.5), ("-3", -3), ("1_000", 1000)],
)
def test_numbers_are_read_as_yaml_1_2_and_mergekit_read_them(text, number):
    value = yaml_file.parse(f"a: {text}", "here")["a"]
    assert value == number
    assert not isinstance(value, str)
