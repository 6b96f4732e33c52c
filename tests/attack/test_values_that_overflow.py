"""No model of inf and NaN is written or scored: the tensor and what merged it are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.core.errors import UserError
from evomerge.merge.build import build, fill
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import plan
from evomerge.recipe.recipe import Recipe
from tests.merge.merging import load_live
from tests.models import make_family

LARGEST = {"float32": "3.4028e+38", "bfloat16": "3.3895e+38", "float16": "65504"}
CASES = [(dtype, weight) for dtype in LARGEST for weight in (1e39, 1e300)] + [("float16", 1e8)]


def recipe_of(family: dict[str, str], weight: float, dtype: str, method: str) -> Recipe:
    """Two models, one with a weight and one with its opposite."""
    document = {
        "merge_method": method,
        "models": [
            {"model": family["a"], "parameters": {"weight": weight}},
            {"model": family["b"], "parameters": {"weight": -weight}},
        ],
        "dtype": "float32",
        "out_dtype": dtype,
    }
    if method == "linear":
        document["parameters"] = {"normalize": False}
    else:
        document["base_model"] = family["base"]
    return Recipe.from_dict(document)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_family(tmp_path_factory.mktemp("family"))


@pytest.mark.parametrize("method", ["task_arithmetic", "linear", "ties"])
@pytest.mark.parametrize(("dtype", "weight"), CASES)
def test_values_beyond_a_dtype_are_refused_by_the_tensors_name(
    family: dict[str, str], tmp_path: Path, dtype: str, weight: float, method: str
) -> None:
    recipe = recipe_of(family, weight, dtype, method)
    with pytest.raises(
        UserError, match=r"weight: \d+ of [\d,]+ merged values are not fin"
    ) as raised:
        build(recipe, tmp_path / "out")
    said = f"in {dtype}, whose largest value is {LARGEST[dtype]}: merged by {method} with weight ["
    assert said in str(raised.value)
    assert not (tmp_path / "out").exists()
    parents = Parents(recipe.model_names)
    with pytest.raises(UserError, match="merged values are not finite"):
        fill(load_live(family["base"], dtype), plan(recipe, parents.checkpoints), parents)


def test_large_values_that_a_dtype_holds_are_written(tmp_path: Path) -> None:
    family = make_family(tmp_path / "family", names="ab")
    for model in family.values():
        file = Path(model) / "model.safetensors"
        tensors = {name: torch.full_like(t, 3e38) for name, t in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})  # their sum is infinite
    document = {
        "merge_method": "linear",
        "models": [{"model": family[n], "parameters": {"weight": 0.5}} for n in "ab"],
        "dtype": "float32",
    }
    build(Recipe.from_dict(document), tmp_path / "out")
    assert all(
        bool((t == 3e38).all()) for t in load_file(tmp_path / "out/model.safetensors").values()
    )
