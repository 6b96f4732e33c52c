"""Whole studies, by the command line, over parents that are no plain folders: adapters, merges."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from evomerge.cli.main import main
from evomerge.core import yaml_file
from evomerge.merge.build import build
from evomerge.merge.output.extract_lora import extract_lora
from evomerge.recipe.recipe import Recipe
from evomerge.study import study as study_module
from tests.models import load
from tests.study.small_study import InProcessPool, real_study

ADAPTERS = [
    {"model": "zoo/base", "adapter": "adapters/one"},  # as a study file says it
    "zoo/base+adapters/two",  # as mergekit does
]
SOUP = {
    "merge_method": "linear",
    "models": [
        {"model": "zoo/one", "parameters": {"weight": 0.7}},
        {"model": "zoo/two", "parameters": {"weight": 0.3}},
    ],
    "dtype": "float32",
}


def study_of(folder: Path, models: list[Any], space: str) -> Path:
    """The small study with other parents, and three generations."""
    file = real_study(folder)
    document = yaml_file.read(file)
    document.update(models=models, space=space)
    document["search"].update(trials=12)
    document["output"]["save_model"] = True
    file.write_text(json.dumps(document))
    return file


def searched(file: Path) -> Path:
    """Run `evomerge search` to its end; where the exported model lies."""
    run = file.parent / "run"
    assert main(["search", str(file), str(run)]) == 0
    assert json.loads((run / "verdict.json").read_text())
    return run / "best" / "model"


def check_export(model: Path, again: Path) -> None:
    """The exported model loads, and its own recipe builds the same weights once more."""
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model)
    weights = load(model)
    state = loaded.state_dict()
    assert all(state[name].equal(tensor) for name, tensor in weights.items())
    build(Recipe.from_yaml(model / "evomerge_recipe.yaml"), again)
    rebuilt = load(again)
    assert rebuilt.keys() == weights.keys()
    assert all(rebuilt[name].equal(tensor) for name, tensor in weights.items())


@pytest.mark.slow
def test_a_study_of_adapters_ends_with_a_model_that_loads(tmp_path: Path) -> None:
    file = study_of(tmp_path / "study", ADAPTERS, "task_arithmetic_by_depth")
    for name in ("one", "two"):
        zoo = file.parent / "zoo"
        arguments = [str(zoo / name), str(zoo / "base"), str(file.parent / "adapters" / name)]
        assert main(["extract-lora", *arguments, "--rank", "4"]) == 0
    check_export(searched(file), tmp_path / "again")


@pytest.mark.slow
def test_a_study_of_recipe_files_ends_with_a_model_that_loads(tmp_path: Path) -> None:
    file = study_of(tmp_path / "study", ["soup.yaml", "zoo/two"], "ties_by_depth")
    (file.parent / "soup.yaml").write_text(yaml_file.write(SOUP))
    check_export(searched(file), tmp_path / "again")


def test_a_search_over_adapters_exports_an_adapter_that_peft_loads(tmp_path: Path) -> None:
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    file = study_of(tmp_path / "study", ADAPTERS, "task_arithmetic_by_depth")
    zoo = file.parent / "zoo"
    base = zoo / "base"
    for rank, name in ((12, "one"), (10, "two")):
        extract_lora(str(zoo / name), str(base), file.parent / "adapters" / name, rank)
    document = yaml_file.read(file)
    document["search"]["trials"] = 4
    file.write_text(json.dumps(document))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_module, "open_pool", InProcessPool)
        model = searched(file)
        adapter = model.parent / "adapter"
        verdict = json.loads((file.parent / "run" / "verdict.json").read_text())["adapter"]
        assert verdict["folder"] == "best/adapter"
        assert verdict["exact"]
        assert verdict["rank"] in (10, 12, 22), "of a parent, or of both together"
        tokens = torch.arange(3, 13)[None]
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT asks transformers by an old name
            plain = AutoModelForCausalLM.from_pretrained(base)
            before = plain(tokens).logits
            by_peft = peft.PeftModel.from_pretrained(plain, str(adapter))(tokens).logits
            expected = AutoModelForCausalLM.from_pretrained(model)(tokens).logits
        torch.testing.assert_close(by_peft, expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(by_peft, before, rtol=1e-2, atol=1e-2)
        # a lower rank, asked for afterwards: the export alone is done again
        document["output"]["adapter_rank"] = 1
        file.write_text(json.dumps(document))
        searched(file)
    verdict = json.loads((file.parent / "run" / "verdict.json").read_text())["adapter"]
    assert (verdict["rank"], verdict["asked_rank"]) == (1, 1)
    assert verdict["error"] > 0.01
    assert verdict["sentence"].startswith("rank 1, misses ")
    assert json.loads((adapter / "adapter_config.json").read_text())["r"] == 1
    page = (file.parent / "run" / "report.html").read_text()
    assert verdict["sentence"].partition("'")[0] in page
