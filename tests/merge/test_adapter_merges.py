"""Recipes whose models are adapters on a base: every method merges them as the deltas they are."""

import itertools

import pytest
import torch
import yaml

from evomerge.checkpoint.opening import open_model
from evomerge.core.errors import UserError
from evomerge.merge.build import build, fill, live_tensors, tensors
from evomerge.merge.digest import digest
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import plan
from evomerge.recipe.mergekit.to_mergekit import as_yaml, to_mergekit
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.space.space import SearchSpace
from tests.adapters import make_adapter, merged_by_peft
from tests.merge.merging import load_live
from tests.models import load, make_model


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A base and three adapters on it; the third is of other layers and another rank."""
    folder = tmp_path_factory.mktemp("adapters")
    base = make_model(folder / "base")
    make_adapter(folder / "task", base, seed=1)
    make_adapter(folder / "there", base, seed=2)
    make_adapter(folder / "here", base, seed=3, r=2, target_modules=["v_proj", "up_proj"])
    return folder


def exact_deltas(zoo, name):
    """What PEFT adds to the base, in float64."""
    start = load(zoo / "base")
    return {
        key: tensor.double() - start[key].double()
        for key, tensor in merged_by_peft(zoo / "base", zoo / name).items()
    }


def analogy(zoo, share):
    weights = {"task": share, "there": 1 - share, "here": -(1 - share)}
    return Recipe.from_dict(
        {
            "merge_method": "task_arithmetic",
            "base_model": str(zoo / "base"),
            "models": [
                {
                    "model": {"model": str(zoo / "base"), "adapter": str(zoo / name)},
                    "parameters": {"weight": weight},
                }
                for name, weight in weights.items()
            ],
        }
    )


def test_a_task_moves_to_another_language_by_adding_and_taking_away_adapters(zoo, tmp_path):
    # Chronopoulou 2024: l * task + (1 - l) * (LM there - LM here)
    build(analogy(zoo, 0.4), tmp_path / "out")
    start, merged = load(zoo / "base"), load(tmp_path / "out")
    task, there, here = (exact_deltas(zoo, name) for name in ("task", "there", "here"))
    for name, tensor in merged.items():
        expected = start[name] + 0.4 * task[name] + 0.6 * (there[name] - here[name])
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-5)


def test_all_of_the_task_and_none_of_the_language_is_the_task_adapter(zoo):
    recipe = analogy(zoo, 1.0)
    parents = Parents(recipe.model_names)
    expected = merged_by_peft(zoo / "base", zoo / "task")
    for name, tensor in tensors(plan(recipe, parents.checkpoints), parents):
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)


def test_a_live_model_and_a_folder_take_adapters_alike(zoo, tmp_path):
    base = str(zoo / "base")
    recipe = Recipe.from_dict(
        {
            "merge_method": "ties",
            "base_model": base,
            "models": [f"{base}+{zoo / 'task'}", f"{base}+{zoo / 'here'}"],
            "parameters": {"weight": 1.0, "density": 0.5},
            "out_dtype": "bfloat16",
        }
    )
    parents = Parents(recipe.model_names)
    built = plan(recipe, parents.checkpoints)
    live = load_live(base, "bfloat16")
    fill(live, built, parents)
    assert build(recipe, tmp_path / "out") == digest(live_tensors(live, built).items())


def test_both_ways_to_name_an_adapter_are_one_recipe(zoo):
    spelled = {"model": "base", "adapter": "task"}
    forms = ["base+task", {"model": spelled}, spelled, {"model": "base+task"}]
    (zoo / "recipes").mkdir(exist_ok=True)
    digests = set()
    for i, form in enumerate(forms):
        document = {
            "merge_method": "linear",
            "base_model": "base",
            "models": [form],
            "parameters": {"weight": 1.0},
        }
        file = zoo / f"{i}.yaml"
        file.write_text(str(document).replace("'", '"'))
        recipe = Recipe.from_yaml(file)
        assert recipe.model_names == [f"{zoo / 'base'}+{zoo / 'task'}", str(zoo / "base")]
        assert Recipe.from_dict(recipe.to_dict()) == recipe
        digests.add(recipe.digest)
    assert len(digests) == 1
    document["models"] = [{"model": "base", "adapter": 3}]
    with pytest.raises(UserError, match=r"expected \{model: base, adapter: folder\}, both as text"):
        Recipe.from_dict(document)


def test_a_plus_in_a_folders_own_name_does_not_part_it(zoo, tmp_path):
    (tmp_path / "a+b").mkdir()
    names = [str(tmp_path / "a+b" / name) for name in ("base", "task")]
    for name, there in zip(("base", "task"), names, strict=True):
        (tmp_path / "a+b" / name).symlink_to(zoo / name)
        assert there
    whole, adapted = open_model(names[0]), open_model("+".join(names))
    changed = [
        name for name in whole.tensors if not torch.equal(whole.tensor(name), adapted.tensor(name))
    ]
    assert len(changed) == 4


def test_the_shipped_space_of_the_analogy_starts_at_equal_parts(zoo):
    base = str(zoo / "base")
    space = SearchSpace.from_yaml("task_and_language").bind(
        base, [f"{base}+{zoo / name}" for name in ("task", "there", "here")]
    )
    assert [(d.low, d.high) for d in space.dimensions] == [(0, 1.5), (0, 1.5), (-1.5, 0)]
    halves = space.fill([d.start for d in space.dimensions])
    parents = Parents(halves.model_names)
    pairs = itertools.zip_longest(
        tensors(plan(halves, parents.checkpoints), parents),
        tensors(plan(analogy(zoo, 0.5), parents.checkpoints), parents),
    )
    assert all(torch.equal(one[1], other[1]) for one, other in pairs)


def test_mergekit_is_told_of_adapters_in_its_own_words(zoo):
    recipe = analogy(zoo, 0.5)
    text = as_yaml(to_mergekit(recipe, list(open_model(recipe.donor).tensors)))
    assert f"model: {zoo / 'base'}+{zoo / 'task'}" in text
    assert Recipe.from_dict(yaml.safe_load(text)).model_names == recipe.model_names


def test_a_model_card_names_adapters_without_their_places(zoo, tmp_path):
    build(analogy(zoo, 0.5), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- base+task\n" in card
    assert str(zoo) not in card
