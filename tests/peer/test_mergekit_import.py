"""mergekit's own files, run by mergekit 0.1.5, and imported and built by us: the same tensors."""

import pytest
import torch

from evomerge.core import yaml_file
from evomerge.merge.build import build
from evomerge.recipe.mergekit.from_mergekit import from_mergekit
from tests.models import make_family
from tests.peer.both import different, merged_by_mergekit, needs_mergekit

pytestmark = needs_mergekit
# Names in capitals are folders of the family.
FILES = {
    "models as mappings": """
merge_method: ties
base_model: {model: {path: BASE}}
models:
  - {model: {model: {path: A}}, parameters: {weight: 0.5, density: [1, 0.4]}}
  - {model: B, parameters: {weight: [{filter: mlp, value: 0.2}, {value: 1}]}}
parameters: {density: 0.6, normalize: 1.0, int8_mask: true}
dtype: float32
""",
    "a module": """
merge_method: task_arithmetic
base_model: BASE
modules:
  default:
    slices:
      - sources:
          - {model: A, layer_range: [0, 2], parameters: {weight: [0.1, 0.9]}}
          - {model: BASE, layer_range: [0, 2]}
      - sources:
          - {model: B, layer_range: [1, 3]}
          - {model: BASE, layer_range: [1, 3]}
        parameters: {lambda: 0.7}
    parameters: {weight: {filter: attn, value: 0.3}}
parameters: {weight: 0.6, lambda: 1.1, density: 0.5}
dtype: float32
""",
    "a base that is one more model": """
merge_method: linear
base_model: BASE
models: [{model: A}, {model: B, parameters: {weight: 2}}]
parameters: {weight: 0.5}
dtype: float32
""",
    "the middle of all, the base too": """
merge_method: karcher
base_model: BASE
models: [{model: A}, {model: B}]
dtype: float32
""",
    "no dtype, of bfloat16": """
merge_method: linear
models: [{model: LOW, parameters: {weight: [0.1, 0.8]}}, {model: LOWER, parameters: {weight: 0.4}}]
base_model: LOW
""",
    "an output dtype": """
merge_method: slerp
base_model: A
models: [{model: A}, {model: B}]
parameters: {t: [{filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}, {value: 0.5}]}
dtype: float32
out_dtype: bfloat16
""",
    "several documents": """
name: halfway
merge_method: slerp
base_model: A
models: [{model: A}, {model: B}]
parameters: {t: [0.2, 0.8]}
dtype: float32
---
merge_method: ties
base_model: BASE
models:
  - {model: halfway, parameters: {weight: 1, density: 0.5}}
  - {model: C, parameters: {weight: [0.5, 0.2]}}
dtype: float32
out_dtype: float16
""",
}


@pytest.fixture(scope="module")
def merges(tmp_path_factory):
    """Every file merged by both: {name: (our folder, mergekit's, its problem)}."""
    torch.set_num_threads(1)  # more would add up a norm in another order
    top = tmp_path_factory.mktemp("import")
    folders = make_family(top / "family", names="abc", layers=4)
    low = make_family(top / "low", names="b", layers=4, dtype="bfloat16")
    named = {name.upper(): path for name, path in folders.items()}
    named |= {"LOWER": low["b"], "LOW": low["base"]}
    files = {}
    for number, (name, text) in enumerate(FILES.items()):
        for word in sorted(named, key=len, reverse=True):
            text = text.replace(f": {word}", f": {named[word]}")
        files[name] = top / f"{number}.yaml"
        files[name].write_text(text)
        recipe = from_mergekit(yaml_file.read_all(files[name]), top, name).recipe
        build(recipe, top / f"ours-{number}")
    return merged_by_mergekit(files, top)


@pytest.mark.parametrize("name", FILES)
def test_an_imported_recipe_builds_the_tensors_that_mergekit_makes(merges, name):
    ours, theirs, problem = merges[name]
    assert problem is None, problem
    assert not different(ours, theirs)
