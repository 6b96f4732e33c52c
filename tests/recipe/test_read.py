"""A recipe is read strictly, and every mistake in it is named."""

import copy
import json
import random

import pytest

from evomerge.core.errors import UserError
from evomerge.recipe.recipe import Recipe

TIES = {
    "merge_method": "ties",
    "base_model": "base",
    "models": [
        {"model": "a", "parameters": {"weight": 0.5, "density": [1.0, 0.5]}},
        {"model": "b", "parameters": {"weight": [{"filter": "mlp", "value": 0.1}, {"value": 1}]}},
    ],
    "parameters": {"lambda": 0.9},
    "blocks": [{"layers": [0, 2], "components": ["mlp"], "parameters": {"lambda": 1.1}}],
}
SLERP = {
    "merge_method": "slerp",
    "base_model": "a",
    "models": ["a", "b"],
    "parameters": {"t": 0.5},
}
STACK = {
    "merge_method": "passthrough",
    "slices": [
        {"sources": [{"model": "a", "layer_range": [0, 2]}]},
        {"sources": [{"model": "b", "layer_range": [1, 3]}]},
    ],
}


def changed(document, path, value):
    """A copy with one value changed, or removed if it is `...`."""
    document = copy.deepcopy(document)
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return document


WRONG = [
    (TIES, ["merge_methd"], "ties", "recipe: unknown key 'merge_methd': did you mean 'merge_meth"),
    (TIES, ["merge_method"], "tise", "merge_method: unknown merge method 'tise': did you mean 'ti"),
    (TIES, ["merge_method"], ..., "expected a merge_method, one of .*dare_linear, dare_ties"),
    (TIES, ["merge_method"], ["ties"], "merge_method: expected text, but got"),
    (TIES, ["base_model"], ..., "recipe: ties needs a base_model"),
    (TIES, ["base_model"], "", "base_model: expected a folder or a hub id but got ''"),
    (TIES, ["base_model"], 3, "base_model: expected a folder or a hub id but got 3"),
    (TIES, ["models"], ..., "expected either models or slices, and only one of them"),
    (TIES, ["slices"], [1], "expected either models or slices, and only one of them"),
    (STACK, ["models"], [], "expected either models or slices, and only one of them"),
    (TIES, ["models"], {"a": 1}, "models: expected a list but got"),
    (TIES, ["models", 0], 3, r"models\[0\]: expected a mapping of names to values, but got 3"),
    (TIES, ["models", 0], "", r"models\[0\]\.model: expected a folder or a hub id but got ''"),
    (TIES, ["models", 0, "model"], ..., r"models\[0\]: expected a key 'model'"),
    (TIES, ["models", 0, "modle"], "a", r"models\[0\]: unknown key 'modle': did you mean 'model'"),
    (TIES, ["models", 1, "model"], "a", "models: a appears twice"),
    (TIES, ["models"], ["base"], "models: ties: expected at least 1 model besides the base, but "),
    (SLERP, ["models"], ["a", "b", "c"], "slerp: expected exactly 1 model besides the base, but "),
    (SLERP, ["models"], ["a"], "slerp: expected exactly 1 model besides the base, but got 0"),
    (
        {**SLERP, "parameters": {}},
        ["merge_method"],
        "model_stock",
        "model_stock: expected at least 2 models besides the base, but got 1",
    ),
    (
        TIES,
        ["models", 0, "parameters", "densty"],
        0.5,
        r"models\[0\]\.parameters: unknown parameter of ties 'densty': did you mean 'density'",
    ),
    (
        TIES,
        ["models", 0, "parameters", "lambda"],
        0.5,
        r"models\[0\]\.parameters\.lambda: holds for all models at once; move it to the recipe's",
    ),
    (
        TIES,
        ["models", 0, "parameters", "density"],
        1.5,
        r"models\[0\]\.parameters\.density: ties: density must be a number in \[0, 1\], but got 1",
    ),
    (
        TIES,
        ["models", 0, "parameters", "density"],
        [1.0, -0.1],
        r"density must be a number in \[0, 1\], but got -0\.1",
    ),
    (
        TIES,
        ["models", 0, "parameters", "weight"],
        float("nan"),
        "weight must be a finite number, but got",
    ),
    (TIES, ["parameters", "lambda"], float("inf"), "lambda must be a finite number"),
    (TIES, ["parameters", "lambda"], "0.5", "lambda must be a finite number"),
    (TIES, ["parameters", "lambda"], True, "lambda must be a finite number"),
    (TIES, ["parameters", "lambda"], None, "lambda must be a finite number"),
    (TIES, ["parameters", "lambda"], 10**400, "lambda: expected a number that a float holds"),
    (TIES, ["parameters", "lambda"], [], "lambda: expected at least one value, but got"),
    (TIES, ["parameters", "lambda"], [[1.0]], "lambda must be a finite number"),
    (TIES, ["parameters", "lambda"], {"filter": "mlp"}, "lambda: expected a key 'value'"),
    (TIES, ["parameters", "lambda"], {"value": 1, "filtr": "x"}, "unknown key 'filtr': did you m"),
    (TIES, ["parameters", "lambda"], {"value": 1, "filter": 3}, "filter: expected text, but got 3"),
    (
        TIES,
        ["parameters", "lambda"],
        [{"value": 1}, 2.0],
        "lambda: expected a mapping of names to values, but got 2.0",
    ),
    (
        TIES,
        ["parameters", "lambda"],
        {"value": [{"value": 1}], "filter": "mlp"},
        "expected a value or a list of values beside the filter",
    ),
    (TIES, ["parameters", "normalize"], "yes", "normalize must be true or false, but got"),
    (TIES, ["parameters"], [1], "parameters: expected a mapping of names to values"),
    (TIES, ["blocks"], {}, "blocks: expected a list but got {}"),
    (TIES, ["blocks", 0], 3, r"blocks\[0\]: expected a mapping"),
    (TIES, ["blocks", 0, "layer"], [0, 1], r"blocks\[0\]: unknown key 'layer': did you mean 'laye"),
    (TIES, ["blocks", 0, "layers"], [2, 2], r"layers: expected \[first, end\], 0 <= first < end, "),
    (TIES, ["blocks", 0, "layers"], [-1, 2], r"layers: expected \[first, end\], 0 <= first < end"),
    (TIES, ["blocks", 0, "layers"], [0, True], r"layers: expected \[first, end\]"),
    (TIES, ["blocks", 0, "layers"], 3, r"layers: expected \[first, end\]"),
    (TIES, ["blocks", 0, "components"], ["attn"], "unknown component 'attn': did you mean 'atten"),
    (TIES, ["blocks", 0, "components"], 3, r"blocks\[0\]\.components: expected a list but got 3"),
    (TIES, ["blocks", 0, "merge_method"], "tie", r"blocks\[0\]\.merge_method: unknown merge metho"),
    (TIES, ["blocks", 0, "merge_method"], "slerp", "unknown parameter of slerp 'lambda': known: t"),
    (
        TIES,
        ["blocks", 0],
        {"merge_method": "slerp", "parameters": {"t": 0.1}},
        "models: slerp: expected exactly 1 model besides the base, but got 2",
    ),
    (TIES, ["blocks", 0, "models"], ["expert"], r"blocks\[0\]\.models: unknown model 'expert': "),
    (TIES, ["dtype"], "float31", "dtype: unknown dtype 'float31': did you mean 'float32'"),
    (TIES, ["out_dtype"], "int8", "out_dtype: unknown dtype 'int8'"),
    (TIES, ["seed"], -1, "seed: expected a whole number >= 0, but got -1"),
    (TIES, ["seed"], 1.0, "seed: expected a whole number >= 0, but got 1.0"),
    (TIES, ["seed"], False, "seed: expected a whole number >= 0, but got False"),
    (TIES, ["tokenizer_source"], "bas", "unknown tokenizer_source 'bas': did you mean 'base'"),
    (TIES, ["tokenizer_source"], 3, "tokenizer_source: expected base, union or a model"),
    (STACK, ["blocks"], [{}], "blocks go with models, not with slices"),
    (STACK, ["slices", 0, "sources"], [], r"slices\[0\]: expected sources of one length"),
    (STACK, ["slices", 0, "sources", 0, "layer_range"], ..., "expected a key 'layer_range'"),
    (STACK, ["slices", 0, "sources", 0, "layer_range"], [3, 1], r"layer_range: expected \[first,"),
    (STACK, ["slices", 0, "residual_weight"], 1, r"slices\[0\]: unknown key 'residual_weight'"),
    (
        STACK,
        ["slices", 1, "sources"],
        [{"model": "a", "layer_range": [0, 2]}, {"model": "b", "layer_range": [0, 3]}],
        r"slices\[1\]: expected sources of one length, got \[2, 3\] layers",
    ),
    (
        STACK,
        ["slices", 1, "sources"],
        [{"model": "a", "layer_range": [0, 2]}, {"model": "b", "layer_range": [0, 2]}],
        r"slices\[1\]: passthrough: expected exactly 1 model, but got 2",
    ),
]


@pytest.mark.parametrize(("document", "path", "value", "message"), WRONG)
def test_a_mistake_is_told_by_its_place_in_one_line(document, path, value, message):
    with pytest.raises(UserError, match=message) as caught:
        Recipe.from_dict(changed(document, path, value))
    assert str(caught.value).startswith("recipe: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("document", [TIES, SLERP, STACK])
def test_the_recipes_that_the_mistakes_are_made_in_are_right(document):
    assert Recipe.from_dict(document).to_dict()["merge_method"] == document["merge_method"]


@pytest.mark.parametrize("document", [None, 3, "ties", [], [TIES], {1: 2}])
def test_a_document_that_is_no_mapping_is_no_recipe(document):
    with pytest.raises(UserError, match="recipe: expected"):
        Recipe.from_dict(document)


def test_a_recipe_is_not_changed_by_reading_it():
    before = copy.deepcopy(TIES)
    Recipe.from_dict(TIES)
    assert before == TIES


def test_equal_recipes_have_equal_digests_however_they_are_written():
    first = Recipe.from_dict({**TIES, "dtype": "float32"})
    other = {
        "blocks": [{"components": "mlp", "parameters": {"lambda": 1.1}, "layers": (0, 2)}],
        "parameters": {"lambda": 0.9},
        "models": [
            {"parameters": {"density": [1, 0.5], "weight": 0.5}, "model": "a"},
            {
                "parameters": {"weight": [{"value": 0.1, "filter": "mlp"}, {"value": 1.0}]},
                "model": "b",
            },
        ],
        "base_model": "base",
        "merge_method": "ties",
        "dtype": "torch.float32",
        "seed": 0,
        "out_dtype": None,
    }
    assert Recipe.from_dict(other).digest == first.digest


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["models", 0, "parameters", "weight"], 0.5000000000000001),
        (["models", 0, "model"], "c"),
        (["parameters", "lambda"], 0.8),
        (["blocks", 0, "layers"], [0, 3]),
        (["seed"], 1),
        (["out_dtype"], "bfloat16"),
        (["models"], TIES["models"][::-1]),
    ],
)
def test_recipes_that_merge_otherwise_have_other_digests(path, value):
    assert Recipe.from_dict(changed(TIES, path, value)).digest != Recipe.from_dict(TIES).digest


def test_the_digest_is_pinned():
    # SHA-256 of {"dtype": "float32", "merge_method": "linear", "models": [{"model": "a",
    # "parameters": {"weight": 1.0}}]}, taken with sha256sum; outcomes are keyed by it
    recipe = Recipe.from_dict(
        {
            "merge_method": "linear",
            "models": [{"model": "a", "parameters": {"weight": 1}}],
            "dtype": "float32",
        }
    )
    assert recipe.digest == "fca7810358a5e0c356c63ef327ed12ef67c8a376126440e70b16e3d5ea82bf47"


def test_mergekits_own_spellings_are_read():
    recipe = Recipe.from_dict(
        {
            "merge_method": "ties",
            "base_model": "base",
            "models": [{"model": "base"}, {"model": "a", "parameters": {"weight": 1}}],
            "parameters": {"normalize": 1.0, "rescale": 0, "int8_mask": 1.0},
            "dtype": "torch.bfloat16",
            "tokenizer_source": "model:a",
        }
    )
    assert recipe.parameters == {"normalize": True, "rescale": False}
    assert recipe.dtype == "bfloat16"
    bare = {**SLERP, "parameters": {"t": {"filter": "mlp", "value": 0.3}}}
    assert Recipe.from_dict(bare).parameters == {"t": [{"filter": "mlp", "value": 0.3}]}


def mutated(document, draw):
    """A recipe or space with something put where it does not belong."""
    document = copy.deepcopy(document)
    junk = draw.choice(
        [None, True, -1, 3, 0.5, 10**400, float("nan"), float("inf"), "", "x", "search", "*", "*1",
         [], [1], [[]], ["x"], [None], {}, {"x": 1}, {1: 2}, {"choice": [1]}, {"choice": 3},
         {"low": 0}, {"low": 1, "high": 0}, {"low": "a"}, {"low": 0, "high": 1, 3: 4},
         {"choice": ["ties", "x"]}, {"choice": [["ties"]]}, {"model": 3}, {"value": 1},
         {"value": "search"}, {"groups": 2}, {"knots": 2}, {"knots": 0}, {"low": 10**400}]
    )  # fmt: skip
    inner, key = None, None
    outer = document
    while True:
        keys = list(outer) if isinstance(outer, dict) else list(range(len(outer)))
        if not keys:
            break
        inner, key = outer, draw.choice(keys)
        if not isinstance(inner[key], dict | list) or draw.random() < 0.3:
            break
        outer = inner[key]
    how = draw.randrange(4)
    if inner is None:
        return junk
    if how == 0 and isinstance(inner, dict):
        del inner[key]
    elif how == 1 and isinstance(inner, dict):
        inner[draw.choice(["x", "model", "layers", "merge_method", "parameters", 3])] = junk
    else:
        inner[key] = junk
    return document


NESTED = {"merges": {"soup": STACK, "inner": TIES}, **TIES, "models": ["soup", {"model": SLERP}]}
NESTED["models"] += [{"model": "inner", "parameters": {"weight": 1.0}}]


@pytest.mark.parametrize("document", [TIES, SLERP, STACK, NESTED])
def test_a_mutated_recipe_is_read_or_refused(document):
    draw, read = random.Random(11), 0
    for _ in range(1500):
        wrong = document
        for _ in range(draw.randint(1, 3)):
            wrong = mutated(wrong, draw) if isinstance(wrong, dict | list) else wrong
        try:
            recipe = Recipe.from_dict(wrong)
        except UserError:
            continue
        json.dumps(recipe.to_dict(), allow_nan=False)
        read += 1
    assert read > 5


def test_models_and_slices_together_are_refused_even_where_one_is_empty():
    document = {"merge_method": "linear", "models": ["a", "b"], "slices": []}
    with pytest.raises(UserError, match="expected either models or slices, and only one of them"):
        Recipe.from_dict(document)
