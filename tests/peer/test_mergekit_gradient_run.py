"""What a search along gradients exports, a weight for each tensor, run by mergekit's program."""

import json
import subprocess
from pathlib import Path

import yaml

from evomerge.study import study as study_module
from evomerge.study.config import StudyConfig
from evomerge.study.study import Study
from tests.peer.both import PYTHON, different, needs_mergekit, quiet_environment
from tests.study.small_study import InProcessPool, real_study

pytestmark = needs_mergekit


def test_the_recipe_that_adam_learnt_for_each_tensor_merges_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(study_module, "open_pool", InProcessPool)
    file = real_study(tmp_path / "study")
    document = json.loads(file.read_text())
    document["space"] = "task_arithmetic_by_tensor"
    document["search"] = {"optimizer": "adam", "trials": 12, "seed": 3}
    run = tmp_path / "run"
    verdict = Study(StudyConfig.from_dict(document, file.parent), run).confirm()
    assert verdict.winner.kind in ("trial", "mean"), (
        "no step of the search won: nothing to see here"
    )
    exported = run / "best" / "mergekit.yaml"
    models = yaml.safe_load(exported.read_text())["models"]
    weights = [case["value"] for model in models for case in model["parameters"]["weight"]]
    assert len(set(weights)) > 15  # a filter for each tensor
    subprocess.run(
        [Path(PYTHON).with_name("mergekit-yaml"), exported, tmp_path / "theirs"],
        check=True,
        capture_output=True,
        timeout=300,
        env=quiet_environment(),
    )
    assert not different(run / "best" / "model", tmp_path / "theirs")
