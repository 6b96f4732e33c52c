"""Recipes in mergekit's words, read back and planned: the same job for every tensor.

tests/peer runs mergekit itself on such documents; here its reading of them is stood in for by ours,
which the same rules govern.
"""

import random

import pytest
import yaml

from evomerge.checkpoint.opening import open_model
from evomerge.core.errors import UserError
from evomerge.merge.plan.plan import plan
from evomerge.recipe.mergekit.to_mergekit import as_yaml, to_mergekit
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.values import resolve
from tests.merge.merging import recipe_of
from tests.models import make_family

COMPONENTS = ("attention", "mlp", "norm", "embedding", "head")
OF_METHOD = {
    "task_arithmetic": ("lambda",),
    "ties": ("lambda", "density"),
    "dare_ties": ("lambda", "density"),
    "linear": (),
}


@pytest.fixture(scope="module", params=["llama", "qwen3", "gpt2"])
def models(request, tmp_path_factory):
    """Checkpoints of four layers, by the short names that recipes here give them."""
    folders = make_family(tmp_path_factory.mktemp(request.param), request.param, layers=4)
    return {name: open_model(folder) for name, folder in folders.items()}


def setting(draw, low=0.0, high=1.0):
    """A number, a gradient, or filters, at random."""
    kind = draw.randrange(4)
    if kind < 2:
        return draw.uniform(low, high)
    if kind == 2:
        return [draw.uniform(low, high) for _ in range(draw.randint(2, 4))]
    pattern = draw.choice(["attn", "mlp", "norm", "ln_", ".1.", "embed", "wte"])
    first, rest = draw.uniform(low, high), draw.uniform(low, high)
    return [{"filter": pattern, "value": first}, {"value": [rest, first]}]


def entry(draw, model, method):
    parameters = {"weight": setting(draw, -1.0, 1.0)}
    if "density" in OF_METHOD[method] and draw.random() < 0.5:
        parameters["density"] = setting(draw, 0.2)
    return {"model": model, "parameters": parameters}


def recipe_with_blocks(draw, methods):
    """A random recipe with up to four blocks, each by one of the methods."""
    top = draw.choice(methods)
    blocks = []
    for _ in range(draw.randint(1, 4)):
        first = draw.randrange(4)
        method = draw.choice(methods)
        block = {"merge_method": method}
        if draw.random() < 0.7:
            block["layers"] = [first, draw.randint(first + 1, 4)]
        if draw.random() < 0.6:
            block["components"] = draw.sample(COMPONENTS, draw.randint(1, 2))
        if draw.random() < 0.6:
            block["parameters"] = {name: setting(draw) for name in OF_METHOD[method]}
        if draw.random() < 0.6:
            block["models"] = [entry(draw, draw.choice("ab"), method)]
        blocks.append(block)
    document = {
        "merge_method": top,
        "base_model": "base",
        "models": [entry(draw, model, top) for model in "ab"],
        "blocks": blocks,
        "parameters": {name: setting(draw) for name in OF_METHOD[top]},
    }
    return Recipe.from_dict(document)


def jobs_of(recipe, checkpoints):
    return {job.name: job for job in plan(recipe, checkpoints).jobs}


@pytest.mark.parametrize("seed", range(25))
def test_blocks_of_one_method_become_slices_that_give_every_tensor_its_values(models, seed):
    draw = random.Random(seed)
    recipe = recipe_with_blocks(draw, [draw.choice(list(OF_METHOD))])
    (document,) = to_mergekit(recipe, list(models["base"].tensors))
    (content,) = yaml.safe_load_all(as_yaml([document]))
    assert "blocks" not in content
    assert content["slices"][0]["sources"][0]["layer_range"][0] == 0
    assert jobs_of(Recipe.from_dict(content), models) == jobs_of(recipe, models)


@pytest.mark.parametrize("seed", range(25))
def test_of_several_methods_every_tensor_is_taken_from_the_merge_that_its_method_made(models, seed):
    recipe = recipe_with_blocks(random.Random(1000 + seed), list(OF_METHOD))
    wanted = jobs_of(recipe, models)
    documents = to_mergekit(recipe, list(models["base"].tensors))
    used = {job.method for job in wanted.values()}
    if len(used) == 1:
        assert len(documents) == 1
        return
    *stages, final = yaml.safe_load_all(as_yaml(documents))
    assert {stage["merge_method"] for stage in stages} == used
    made = {stage.pop("name"): jobs_of(Recipe.from_dict(stage), models) for stage in stages}
    assert "name" not in final
    merges = dict.fromkeys(made, models["base"])  # of their layers only names are looked at
    for job in jobs_of(Recipe.from_dict(final), merges).values():
        weights = dict(zip((r.model for r in job.models), job.parameters["weight"], strict=True))
        (taken,) = (stage for stage, weight in weights.items() if weight == 1)
        assert sum(weights.values()) == 1
        assert job.parameters["normalize"] is False
        assert made[taken][job.name] == wanted[job.name]


def test_layers_of_one_method_each_take_one_source(models):
    document = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": ["a", "b"],
        "parameters": {"weight": 0.5},
        "blocks": [{"layers": [1, 3], "merge_method": "ties"}],
    }
    *_, final = to_mergekit(Recipe.from_dict(document), list(models["base"].tensors))
    assert [
        (source["model"], source["layer_range"], source["parameters"]["weight"])
        for part in final.content["slices"]
        for source in part["sources"]
    ] == [
        ("merged-by-task_arithmetic", [0, 1], 1.0),
        ("merged-by-ties", [1, 3], 1.0),
        ("merged-by-task_arithmetic", [3, 4], 1.0),
    ]


FAMILY = {name: name for name in ("base", "a", "b")}
NAMES = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight"]


def exported(recipe, names=NAMES):
    (document,) = to_mergekit(recipe, names)
    return document


def test_a_recipe_without_blocks_keeps_its_words_and_gets_its_base_last():
    settings = {"lambda": [{"filter": "mlp", "value": [0.1, 0.2]}]}
    recipe = recipe_of(FAMILY, parameters=settings, dtype="float32")
    document = exported(recipe)
    assert document.content == {
        "merge_method": "ties",
        "base_model": "base",
        "models": [
            {"model": "a", "parameters": {"weight": 0.6, "density": 0.5}},
            {"model": "b", "parameters": {"weight": 0.6, "density": 0.5}},
            {"model": "base"},
        ],
        "parameters": {"lambda": [{"filter": "mlp", "value": [0.1, 0.2]}]},
        "dtype": "float32",
        "out_dtype": "float32",
    }
    assert document.notes == ()


def test_settings_without_a_mergekit_key_are_left_out_and_the_dtype_is_of_the_output():
    recipe = recipe_of(FAMILY, "dare_ties", seed=7, dtype="bfloat16")
    document = exported(recipe)
    assert not {"seed", "tokenizer", "blocks"} & document.content.keys()
    assert (document.content["dtype"], document.content["out_dtype"]) == ("float32", "bfloat16")
    (note,) = document.notes
    assert "mergekit draws other masks" in note
    assert f"# {note}\n" in as_yaml([document])


def test_linear_has_a_base_only_among_its_models_or_under_slices():
    bare = Recipe.from_dict(
        {"merge_method": "linear", "models": ["a", "b"], "parameters": {"weight": 1.0}}
    )
    assert exported(bare).content["base_model"] == "a"  # whose config mergekit is to take
    lent = exported(recipe_of(FAMILY, "linear", parameters={"normalize": False})).content
    assert lent["base_model"] == "base"
    assert "models" not in lent
    assert [s["model"] for s in lent["slices"][0]["sources"]] == ["a", "b"]
    assert lent["slices"][0]["sources"][0]["layer_range"] == [0, 1]


def test_the_vocabulary_and_the_chat_template_are_mergekits_own_words():
    more = {"tokenizer_source": "model:b", "chat_template": "chatml"}
    content = exported(recipe_of(FAMILY, **more)).content
    assert content["tokenizer"] == {"source": "b"}
    assert content["chat_template"] == "chatml"
    rule = {
        "source": "union",
        "tokens": {
            "x": {"source": {"kind": "zero"}, "force": True},
            "y": {"source": {"kind": "model_token", "model": "a", "token_id": 3}},
            "z": {"source": "b"},
        },
        "pad_to_multiple_of": 8,
    }
    document = exported(recipe_of(FAMILY, tokenizer=rule, dtype="float32"))
    assert document.content["tokenizer"] == rule
    assert "in random order" in document.notes[0]
    blocks = [{"components": "mlp", "merge_method": "linear"}]
    mixed = to_mergekit(
        recipe_of(FAMILY, blocks=blocks, tokenizer=rule, chat_template="auto"), NAMES
    )
    assert [d.content.get("tokenizer") for d in mixed] == [rule, rule, None]
    assert [d.content.get("chat_template") for d in mixed] == [None, None, "auto"]


def test_the_commands_are_written_above_the_documents():
    one = as_yaml(to_mergekit(recipe_of(FAMILY), NAMES))
    assert one.startswith("# Run with mergekit 0.1.5: mergekit-yaml THIS_FILE OUT\n")
    blocks = [{"components": "mlp", "merge_method": "linear"}]
    several = as_yaml(to_mergekit(recipe_of(FAMILY, blocks=blocks), NAMES))
    assert "mergekit-multi THIS_FILE -I /ABSOLUTE/" in several.splitlines()[0]
    with_adapter = as_yaml(to_mergekit(recipe_of({**FAMILY, "a": "a+lora"}), NAMES))
    assert "OUT --lora-merge-cache /ABSOLUTE/" in with_adapter.splitlines()[0]
    names = [document.get("name") for document in yaml.safe_load_all(several)]
    assert names == ["merged-by-ties", "merged-by-linear", None]


def test_a_recipe_that_mergekit_cannot_express_is_refused_with_the_reason(tmp_path):
    with pytest.raises(UserError, match="rescale: inverse does not exist in mergekit"):
        exported(recipe_of(FAMILY, "dare_ties", parameters={"rescale": ["inverse", True]}))
    (tmp_path / "lo+ra").mkdir()
    with pytest.raises(UserError, match=r"lo\+ra: mergekit takes what follows \+ or @ in a path"):
        exported(recipe_of({**FAMILY, "a": str(tmp_path / "lo+ra")}))
    twice = {
        "merge_method": "linear",
        "slices": [{"sources": [{"model": "a", "layer_range": [i, i + 1]} for i in (0, 1)]}],
        "parameters": {"weight": 0.5},
    }
    with pytest.raises(UserError, match="mergekit takes each model only once in a slice"):
        exported(Recipe.from_dict(twice))
    blocks = [{"components": "mlp", "parameters": {"lambda": 0.5}}]
    for names in (["x"], ["enc.layers.0.mlp.w", "dec.layers.0.mlp.w"]):
        with pytest.raises(UserError, match="mergekit needs one stack of layers for slices, but"):
            exported(recipe_of(FAMILY, blocks=blocks), names)


def test_a_tensor_whose_name_holds_anothers_gets_its_own_value():
    names = ["model.layers.0.mlp.w", "model.layers.0.mlp.w2", "model.layers.0.mlp.w2.w"]
    values = [0.1, 0.2, 0.3]
    cases = [
        {"filter": f".{name.rpartition('mlp.')[2]}", "value": v}
        for name, v in zip(names[::-1], values, strict=True)
    ]
    recipe = recipe_of(FAMILY, "task_arithmetic", cases, blocks=[{"components": "norm"}])
    content = exported(recipe, names).content
    weight = Recipe.from_dict(content).slices[0].sources[0].parameters["weight"]
    assert [resolve(weight, name, 0.0) for name in names] == [
        resolve(cases, name, 0.0) for name in names
    ]
