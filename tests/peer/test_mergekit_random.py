"""Random configurations, built by us and by mergekit 0.1.5: the same, bit for bit."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from evomerge.core import yaml_file
from evomerge.core.errors import UserError
from evomerge.merge.build import build
from evomerge.recipe.mergekit.from_mergekit import from_mergekit
from tests.models import DTYPES, make_family, make_t5, near
from tests.peer.both import different, merged_by_mergekit, named, needs_mergekit
from tests.peer.random_documents import METHODS, TRIMMING, Generator

pytestmark = [*needs_mergekit, pytest.mark.slow]

# family: (architecture, layers, dtypes of base, a, b, c)
FAMILIES = {
    "llama": ("llama", 4, ("float32",) * 4),
    "gpt2": ("gpt2", 3, ("float32",) * 4),
    "qwen3": ("qwen3", 3, ("float32",) * 4),  # no slices: mergekit leaves layer_types as they were
    "bfloat16": ("llama", 4, ("bfloat16",) * 4),
    "t5": ("t5", 4, ("float32",) * 4),  # two stacks, of three and of four layers
    "mixed": ("llama", 4, ("float32", "bfloat16", "float16", "float32")),
}
# what is left out, and a count that a gradient takes through fractions: ours, theirs
REFUSALS = [
    ("needs weight", "parameter weight"),
    ("needs t", "parameter t"),
    ("max_iter must be a whole number", "valid integer"),
]
ROUNDS = 3  # of every method in every family


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    top = tmp_path_factory.mktemp("families")
    return {name: family(top / name, *made) for name, made in FAMILIES.items()}


def family(folder, architecture, layers, dtypes):
    if architecture == "t5":
        base = make_t5(folder / "base")
        made = {name: str(near(base, folder / name, seed=i)) for i, name in enumerate("abc")}
        return {"base": str(base), **made}
    folders = make_family(
        folder, architecture, names="abc", layers=layers, tied=architecture == "qwen3"
    )
    for path, dtype in zip(folders.values(), dtypes, strict=True):
        results = {
            name: t.to(DTYPES[dtype]) for name, t in load_file(f"{path}/model.safetensors").items()
        }
        save_file(results, f"{path}/model.safetensors", metadata={"format": "pt"})
    return folders


def documents():
    """Every random configuration: {name: (family, document)}."""
    differences = {}
    for f, (kind, (_, layers, _)) in enumerate(FAMILIES.items()):
        for m, method in enumerate(METHODS):
            if kind == "bfloat16" and method in TRIMMING:
                continue  # many of one magnitude: which of them are kept differs, see ties
            for n in range(ROUNDS):
                seed = 10_000 * f + 100 * m + n
                stacks = kind not in ("qwen3", "t5")
                drawn = Generator(seed, method, layers, stacks=stacks).document()
                if kind == "t5" and "modules" in drawn:
                    same = drawn["modules"]["default"]
                    drawn["modules"] = dict.fromkeys(("encoder", "decoder", "shared"), same)
                if n == 2 and kind != "bfloat16" and method != "passthrough":
                    del drawn["dtype"]  # of one dtype, or of several: the widest
                    drawn.pop("out_dtype", None)
                differences[f"{kind}, {method}, {n}"] = (kind, drawn)
    return differences


@pytest.fixture(scope="module")
def merges(families, tmp_path_factory):
    """Every configuration merged by both: {name: (ours, theirs, our problem, their problem)}."""
    torch.set_num_threads(1)  # more would add up a norm in another order
    top = tmp_path_factory.mktemp("random")
    files, refused = {}, {}
    for number, (name, (kind, document)) in enumerate(documents().items()):
        files[name] = top / f"{number}.yaml"
        files[name].write_text(yaml.safe_dump(named(document, families[kind])))
        try:
            recipe = from_mergekit(yaml_file.read_all(files[name]), top, name).recipe
            build(recipe, top / f"ours-{number}")
        except UserError as error:
            refused[name] = str(error)
    both = merged_by_mergekit(files, top)
    return {
        name: (*folders, refused.get(name), message) for name, (*folders, message) in both.items()
    }


@pytest.mark.parametrize("name", documents())
def test_a_random_configuration_is_merged_as_by_mergekit_or_refused_by_both(merges, name):
    our_folder, its_folder, problem, its_problem = merges[name]
    assert (problem is None) == (its_problem is None), (problem, its_problem)
    if problem is not None:
        assert any(ours in problem and theirs in its_problem for ours, theirs in REFUSALS)
        return
    assert not different(our_folder, its_folder)
    layers = [
        config.get("num_hidden_layers", config.get("n_layer"))
        for config in (
            json.loads((f / "config.json").read_text()) for f in (our_folder, its_folder)
        )
    ]
    assert layers[0] == layers[1]


def test_random_configurations_reach_every_form_and_nearly_all_are_merged(merges):
    drawn = [document for _, document in documents().values()]
    for form in ("models", "slices", "modules"):
        assert sum(form in document for document in drawn) > 40
    assert sum("'filter'" in str(document) for document in drawn) > 150
    assert sum(problem is None for _, _, problem, _ in merges.values()) > 0.93 * len(drawn)
