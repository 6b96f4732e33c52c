"""mergekit's configurations read as recipes: what they mean there, or an error with the key."""

from pathlib import Path

import pytest

from evomerge.core import yaml_file
from evomerge.core.errors import UserError
from evomerge.merge.build import build
from evomerge.recipe.mergekit.from_mergekit import from_mergekit
from evomerge.recipe.recipe import Recipe
from tests.models import make_family

TIES = """
models:
  - model: base
  - {model: a, parameters: {weight: 0.5, density: [1, 0.5]}}
  - model: {model: {path: org/b, revision: v2}, lora: null}
    parameters: {weight: [{filter: mlp, value: 1e-1}, {value: 1}]}
merge_method: ties
base_model: base
parameters: {normalize: 1.0, int8_mask: true, lambda: 0.9}
dtype: torch.bfloat16
out_dtype: float16
tokenizer_source: null
"""
LINEAR = """
merge_method: linear
models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 2}}]
dtype: float32
"""


def imported(text, folder="/nowhere"):
    return from_mergekit(yaml_file.parse_all(text, "file"), Path(folder), "file")


def test_a_plain_configuration_keeps_its_words():
    result = imported(TIES)
    assert result.recipe.to_dict() == {
        "merge_method": "ties",
        "base_model": "base",
        "models": [
            {"model": "base"},
            {"model": "a", "parameters": {"weight": 0.5, "density": [1.0, 0.5]}},
            {
                "model": "org/b@v2",
                "parameters": {"weight": [{"value": 0.1, "filter": "mlp"}, {"value": 1.0}]},
            },
        ],
        "parameters": {"normalize": True, "lambda": 0.9},
        "dtype": "bfloat16",
        "out_dtype": "float16",
    }
    (note,) = result.notes
    assert note.startswith("dtype bfloat16: ")


def test_the_one_module_is_the_recipe_and_its_parameters_come_before_the_global_ones():
    result = imported("""
merge_method: task_arithmetic
base_model: base
modules:
  text_decoder:
    slices:
      - sources:
          - {model: {model: {path: a}}, layer_range: [0, 2], parameters: {weight: 1}}
          - {model: base, layer_range: [0, 2]}
        base_model: {model: {path: c}}
        parameters: null
    parameters: {lambda: {filter: mlp, value: 0.5}, normalize: 0.0}
parameters: {lambda: [0.1, 0.9], normalize: true}
dtype: float32
""").recipe
    assert result.slices[0].base_model == "c"
    assert [source.model for source in result.slices[0].sources] == ["a", "base"]
    assert result.parameters == {
        "lambda": [{"value": 0.5, "filter": "mlp"}, {"value": [0.1, 0.9]}],
        "normalize": False,
    }


def test_modules_that_all_say_the_same_are_a_merge_of_the_whole():
    same = "{models: [{model: x, parameters: {weight: 0.5}}, y], parameters: {weight: 1}}"
    result = imported(
        f"merge_method: linear\nmodules: {{encoder: {same}, decoder: {same}}}\n"
    ).recipe
    assert [(e.model, dict(e.parameters)) for e in result.models] == [
        ("x", {"weight": 0.5}),
        ("y", {}),
    ]
    assert result.parameters == {"weight": 1.0}


@pytest.mark.parametrize("method", ["linear", "karcher"])
def test_a_base_is_one_more_model_where_mergekit_merges_it_so(method):
    text = f"""
merge_method: {method}
models: [a, b]
base_model: c
dtype: float32
{"parameters: {weight: 1.0}" if method == "linear" else ""}
"""
    result = imported(text)
    assert [entry.model for entry in result.recipe.models] == ["a", "b", "c"]
    assert any("is one more model" in note for note in result.notes)
    listed = imported(text.replace("[a, b]", "[a, c]"))
    assert [entry.model for entry in listed.recipe.models] == ["a", "c"]
    assert not any("is one more model" in note for note in listed.notes)


def test_keys_that_mergekit_ignores_are_left_out_with_a_note():
    result = imported("""
merge_method: task_arithmetic
base_model: base
models: [{model: a, parameters: {weight: 1, density: 0.5}}]
parameters: {rescale: true}
dtype: float32
""")
    assert result.recipe.models[0].parameters == {"weight": 1.0}
    assert result.recipe.parameters == {}
    assert [note.split()[0] for note in result.notes] == ["density", "rescale"]


@pytest.mark.parametrize("method", ["della_linear", "dare_ties"])
def test_truths_may_be_numbers_as_mergekit_writes_them(method):
    result = imported(f"""
merge_method: {method}
base_model: base
models: [{{model: a, parameters: {{weight: 1}}}}]
parameters: {{normalize: 0.0, rescale: [{{filter: mlp, value: 1.0}}, {{value: [0, 1]}}]}}
dtype: float32
""")
    assert result.recipe.parameters == {
        "normalize": False,
        "rescale": [{"value": True, "filter": "mlp"}, {"value": [False, True]}],
    }


def test_chance_and_a_donor_of_mergekits_own_choosing_are_noted():
    assert any("mergekit would draw other masks" in note for note in imported("""
merge_method: dare_ties
base_model: base
models: [{model: a, parameters: {weight: 1, density: 0.5}}]
dtype: float32
""").notes)  # fmt: skip
    assert any("from the first, a" in note for note in imported(LINEAR).notes)


def test_without_a_dtype_the_parents_own_is_written(tmp_path):
    make_family(tmp_path, dtype="bfloat16", layers=1)
    text = LINEAR.replace("dtype: float32", "")
    result = imported(text, tmp_path)
    assert (result.recipe.dtype, result.recipe.out_dtype) == ("float32", "parents")
    assert result.recipe.models[0].model == str(tmp_path / "a")
    assert any("written in what the parents" in note for note in result.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("merge_method: ties", "merge_method: tie"), "file: merge_method: unknown merge method"),
        (("dtype: torch.bfloat16", "dtype: int64"), "file: dtype: unknown dtype 'int64'"),
        (("out_dtype", "outdtype"), "file: unknown key 'outdtype': did you mean 'out_dtype'"),
        (("lambda", "lamda"), "file: parameters: unknown parameter of ties 'lamda'"),
        (("revision", "revison"), r"models\[2\]\.model: unknown key 'revison'"),
        (("path: org/b", "path: 3"), r"models\[2\]\.model: expected a path"),
        (("base_model: base", "base_model: {model: {}}"), "base_model: expected a path"),
        (
            ("{model: {path: org/b, revision: v2}, lora: null}", "{override_architecture: X}"),
            "unknown key 'override_architecture'",
        ),
        (("models:", "modules: {}\nmodels:"), "modules: expected one module, or several"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_by_its_key(change, message):
    assert change[0] in TIES
    with pytest.raises(UserError, match=message):
        imported(TIES.replace(*change))


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ("{}", "modules: expected one module"),
        ("{a: {models: [x]}, b: {models: [y]}}", "modules: .* but got a, b"),
        (
            "{a: {models: [x]}, b: {models: [x], parameters: {weight: 1}}}",
            "modules: .* with the same parameters.* but got a, b",
        ),
        (
            "{a: {slices: [{sources: [{model: x, layer_range: [0, 1]}]}]}, "
            "b: {slices: [{sources: [{model: x, layer_range: [0, 1]}]}]}}",
            "modules: .* but got a, b",
        ),
        ("{a: {modls: [x]}}", r"modules\.a: unknown key 'modls': did you mean 'models'"),
        (
            "{a: {models: [x], parameters: {wight: 1}}}",
            "file: parameters: unknown parameter of linear .wight.",
        ),
        ("[1]", "modules: expected a mapping"),
    ],
)
def test_a_mistake_in_modules_is_told_by_its_key(modules, message):
    with pytest.raises(UserError, match=message):
        imported(f"merge_method: linear\nmodules: {modules}\n")


MULTI = """
name: halfway
merge_method: slerp
base_model: zoo/a
models: [zoo/a, {model: {model: {path: zoo/b}}}]
parameters: {t: 0.5}
dtype: float32
---
merge_method: ties
base_model: zoo/base
models:
  - {model: halfway, parameters: {weight: 1, density: 0.5}}
  - {model: zoo/b, parameters: {weight: 0.5}}
dtype: float32
"""


def test_documents_that_name_each_other_are_merges_of_the_one_without_a_name(tmp_path):
    paths = make_family(tmp_path / "zoo", layers=1)
    recipe = imported(MULTI, tmp_path).recipe
    assert recipe.merge_method == "ties"
    assert [entry.model for entry in recipe.models] == ["halfway", paths["b"]]
    (name, inner), *more = recipe.merges.items()
    assert not more
    assert name == "halfway"
    assert [entry.model for entry in inner.models] == [paths["a"], paths["b"]]
    # the same in two steps, by hand
    build(inner, tmp_path / "halfway")
    apart = {**recipe.to_dict(), "merges": None}
    apart["models"][0] = {**apart["models"][0], "model": str(tmp_path / "halfway")}
    assert build(recipe, tmp_path / "one") == build(Recipe.from_dict(apart), tmp_path / "two")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("name: halfway", "nam: halfway"), "expected a name in every document but one"),
        (("model: halfway", "model: halfways"), "merges: halfway is used by nothing"),
        (("t: 0.5", "t: 1.5"), "t must be a number in"),
        (("dtype: float32\n---", "dytpe: float32\n---"), "unknown key 'dytpe'"),
        (("[zoo/a, {", "[halfway, {"), "a merge cannot be made of itself"),
    ],
)
def test_a_mistake_in_one_of_several_documents_is_told_by_its_key(change, message):
    assert change[0] in MULTI
    with pytest.raises(UserError, match=message):
        imported(MULTI.replace(*change))
