"""Our merges against mergekit 0.1.5's own run on the document that we export, tensor by tensor."""

import json
import random
import subprocess
from pathlib import Path

import pytest
import torch

from evomerge import methods
from evomerge.checkpoint.opening import open_model
from evomerge.merge.build import build
from evomerge.recipe.data import PARENTS
from evomerge.recipe.mergekit.to_mergekit import as_yaml, to_mergekit
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.space.space import SearchSpace
from evomerge.recipe.space.template import placeholders
from tests.models import load, make_family
from tests.peer.both import (
    PYTHON,
    different,
    merged_by_both,
    named,
    needs_mergekit,
    quiet_environment,
)
from tests.peer.recipes import RECIPES, SPACES, TRIMMED_BFLOAT16

pytestmark = needs_mergekit
IN_MERGEKIT = [spec.name for spec in methods.registered() if spec.in_mergekit]


def recipe_of_every_kind(method, families):
    """Any registered method over as many models as it takes, everything at its default.

    What has no default is in the middle of its range; density is 1 where the masks are random.
    """
    spec = methods.get(method)
    settings = {
        p.name: (p.low + p.high) / 2
        for p in spec.parameters
        if p.required or (p.name == "density" and not spec.stochastic)
    }
    count = min(spec.max_models or 3, 3)
    document = {"merge_method": method, "models": [*"abc"[:count]], "parameters": settings}
    return Recipe.from_dict(named({**document, "base_model": "base"}, families["qwen3"]))


def at_a_random_point(space, n):
    """A recipe of a shipped space; densities of 1 where mergekit would draw other masks."""
    draw = random.Random(n)
    point = []
    for dimension in space.dimensions:
        if dimension.kind == "categorical":
            point.append(draw.choice(dimension.choices))
        elif dimension.kind == "int":
            point.append(draw.randint(dimension.low, dimension.high))
        elif "density" in dimension.name and "dare" in json.dumps(space.document):
            point.append(1.0)
        else:
            point.append(draw.uniform(dimension.low, dimension.high))
    return space.fill(tuple(point))


@pytest.fixture(scope="module")
def merges(tmp_path_factory):
    """Every recipe merged by both: {name: (recipe, our folder, mergekit's, its problem)}."""
    torch.set_num_threads(1)  # more would add up a norm in another order
    top = tmp_path_factory.mktemp("peer")
    families = {
        "llama": make_family(top / "llama", names="abc", layers=4),
        "llama-bf16": make_family(top / "bf16", names="abc", layers=4, dtype="bfloat16"),
        "qwen3": make_family(top / "qwen3", "qwen3", names="abc", layers=4),
        "qwen3-tied": make_family(top / "qwen3t", "qwen3", layers=4, tied=True),
        "gpt2": make_family(top / "gpt2", "gpt2", layers=3),
    }
    recipes = {
        name: Recipe.from_dict(named(document, families[family]))
        for name, (family, document) in RECIPES.items()
    }
    recipes["trimmed bfloat16"] = Recipe.from_dict(named(TRIMMED_BFLOAT16, families["llama-bf16"]))
    for method in IN_MERGEKIT:
        recipes[f"any {method}"] = recipe_of_every_kind(method, families)
    for space in SPACES:
        folders = families["llama"]
        template = SearchSpace.from_yaml(space)
        names = "abc" if "*3" in placeholders(template.document) else "ab"
        models = [folders[name] for name in names]
        bound = template.bind(folders["base"], models, dtype="bfloat16")
        for n in range(2):
            recipes[f"{space} {n}"] = at_a_random_point(bound, n)
    both = merged_by_both(recipes, top)
    return {name: (recipe, *both[name]) for name, recipe in recipes.items()}


NAMES = [
    *RECIPES,
    *(f"any {method}" for method in IN_MERGEKIT),
    *(f"{space} {n}" for space in SPACES for n in range(2)),
]


@pytest.mark.parametrize("name", NAMES)
def test_mergekit_makes_the_same_tensors_of_the_exported_document(merges, name):
    recipe, ours, theirs, problem = merges[name]
    assert problem is None, problem
    assert not different(ours, theirs)
    keys = ("num_hidden_layers", "n_layer", "tie_word_embeddings", "dtype", "vocab_size")
    configs = [json.loads((folder / "config.json").read_text()) for folder in (ours, theirs)]
    first, second = ({key: config.get(key) for key in keys} for config in configs)
    assert first == second
    if recipe.output_dtype != PARENTS:
        assert first["dtype"] == recipe.output_dtype


def test_ties_differs_only_in_which_of_equal_magnitudes_at_the_threshold_it_keeps(merges):
    recipe, ours, theirs, problem = merges["trimmed bfloat16"]
    assert problem is None
    base, model = load(recipe.base_model), load(recipe.models[0].model)
    mine, its = load(ours), load(theirs)
    for tensor in mine:
        magnitude = (model[tensor].float() - base[tensor].float()).abs()
        keep = int(0.4 * magnitude.numel())
        threshold = magnitude.flatten().sort(descending=True).values[keep - 1]
        differ = mine[tensor] != its[tensor]
        assert bool((magnitude[differ] == threshold).all()), tensor
        for merged in (mine, its):
            assert int((merged[tensor] != base[tensor]).sum()) <= keep


@pytest.mark.parametrize("name", ["ties with filters", "slerp", "a stack", "blocks of ties"])
def test_an_exported_document_read_back_as_a_recipe_builds_the_same_weights(merges, name, tmp_path):
    recipe, ours, _, _ = merges[name]
    (document,) = to_mergekit(recipe, list(open_model(recipe.donor).tensors))
    build(Recipe.from_dict(document.content), tmp_path / "again")
    mine, again = load(ours), load(tmp_path / "again")
    assert mine.keys() == again.keys()
    assert all(torch.equal(mine[tensor], again[tensor]) for tensor in mine)


def test_the_program_itself_runs_the_exported_file(merges, tmp_path):
    recipe, ours, _, _ = merges["ties"]
    config = tmp_path / "recipe.yaml"
    config.write_text(as_yaml(to_mergekit(recipe, list(load(ours)))))
    subprocess.run(
        [Path(PYTHON).with_name("mergekit-yaml"), config, tmp_path / "out"],
        check=True,
        capture_output=True,
        timeout=300,
        env=quiet_environment(),
    )
    mine, its = load(ours), load(tmp_path / "out")
    assert all(torch.equal(mine[tensor], its[tensor]) for tensor in mine)
