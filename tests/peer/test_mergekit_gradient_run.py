"""What a search along gradients ends with, a weight for each tensor, run by mergekit's program."""

import json
import subprocess
from pathlib import Path

import yaml

from evomerge.checkpoint.opening import open_model
from evomerge.merge.build import build
from evomerge.recipe.mergekit.to_mergekit import as_yaml, to_mergekit
from evomerge.recipe.recipe import Recipe
from evomerge.study import study as study_module
from evomerge.study.config import StudyConfig
from evomerge.study.study import Study
from tests.peer.both import PYTHON, different, needs_mergekit, quiet_environment
from tests.study.small_study import InProcessPool, events, real_study

pytestmark = needs_mergekit


def test_the_weights_that_adam_learnt_for_each_tensor_merge_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(study_module, "open_pool", InProcessPool)
    file = real_study(tmp_path / "study")
    document = json.loads(file.read_text())
    document["space"] = "task_arithmetic_by_tensor"
    document["search"] = {"optimizer": "adam", "trials": 6, "seed": 3}
    run = tmp_path / "run"
    Study(StudyConfig.from_dict(document, file.parent), run).optimize()
    last = events(run, "asked")[-1]["trials"][-1]
    recipe = Recipe.from_dict(last["recipe"])
    build(recipe, tmp_path / "ours")
    exported = tmp_path / "mergekit.yaml"
    exported.write_text(as_yaml(to_mergekit(recipe, list(open_model(recipe.donor).tensors))))
    models = yaml.safe_load(exported.read_text())["models"]
    weights = {
        case["value"]
        for model in models
        for case in model.get("parameters", {}).get("weight", ())
        if "filter" in case
    }
    assert len(weights) > 20  # of two models, each tensor by itself
    subprocess.run(
        [Path(PYTHON).with_name("mergekit-yaml"), exported, tmp_path / "theirs"],
        check=True,
        capture_output=True,
        timeout=600,
        env=quiet_environment(),
    )
    assert not different(tmp_path / "ours", tmp_path / "theirs")
