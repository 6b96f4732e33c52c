"""`evomerge push`, through huggingface_hub's own client, to a stand-in on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from evomerge import methods
from evomerge.recipe.recipe import Recipe
from tests.cli.commands.hub_stand_in import TOKEN, Hub
from tests.cli.conftest import Run
from tests.report import report_bench
from tests.study.small_study import finished_study

ROOT = Path(__file__).parents[3]


@pytest.fixture
def hub() -> Iterator[Hub]:
    stand_in = Hub()
    yield stand_in
    stand_in.close()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_study(tmp_path_factory.getbasetemp() / "real-study")


def push(hub: Hub, *arguments: object, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the client reads its settings once, and the tests' say offline."""
    settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0"}
    settings |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, "-m", "evomerge", "push", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | settings | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_run_is_uploaded_with_its_card_and_nothing_of_this_machine(
    hub: Hub, finished: Path
) -> None:
    result = push(hub, finished, "lab/merged")
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{hub.url}/lab/merged\n"
    [(name, repository)] = hub.repositories.items()
    assert (name, repository["private"]) == ("lab/merged", True)
    files = repository["files"]
    model = finished / "best" / "model"
    assert files["model.safetensors"] == (model / "model.safetensors").read_bytes()
    assert {"config.json", "tokenizer.json", "README.md", "evomerge_recipe.yaml"} <= set(files)
    card = ModelCard(files["README.md"].decode())
    assert card.data.license is None  # the parents state none
    assert {"merge", "evomerge"} <= set(card.data.tags)
    assert [r.metric_name or r.metric_type for r in card.data.eval_results] == [
        "acc",
        "exact_match",
    ]
    assert card.data.model_name == "merged"
    for path, content in files.items():
        assert str(finished.parent).encode() not in content, path


@pytest.mark.slow
def test_a_wrong_token_is_reported_in_one_line(hub: Hub, finished: Path) -> None:
    result = push(hub, finished, "lab/merged", token="hf_wrong")
    assert result.returncode == 2
    assert "lab/merged: the Hub refused: " in result.stderr
    assert "HF_TOKEN" in result.stderr
    assert result.stderr.count("\n") == 1
    assert hub.repositories == {}


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_is_reported_in_one_line(finished: Path) -> None:
    gone = Hub()
    gone.close()
    result = push(gone, finished, "lab/merged")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
    assert "lab/merged: the Hub cannot be reached: " in result.stderr


def test_a_recipe_with_a_method_of_ones_own_names_the_option_that_loads_it(
    evomerge: Run, tmp_path: Path
) -> None:
    events = json.loads(json.dumps(report_bench.events()).replace('"task_arithmetic"', '"mine"'))
    for event in events:
        if event["event"] == "study":
            event["config"]["methods"] = ["/code/own.py:mine"]
    run = report_bench.write(tmp_path / "run", events)
    (run / "best" / "model").mkdir(parents=True)
    for command in (["push", run, "lab/merged"], ["build", run, tmp_path / "out"]):
        result = evomerge(*command)
        assert result.code == 2
        assert "its recipe takes mine, a method of /code/own.py: read that file" in result.err
        assert "add --method /code/own.py:mine, which runs it" in result.err


def test_a_folder_that_is_no_model_is_refused_before_anything_is_sent(
    evomerge: Run, tmp_path: Path
) -> None:
    result = evomerge("push", tmp_path, "lab/merged")
    assert result.code == 2
    assert "expected a run folder, or a model folder that evomerge wrote" in result.err


def test_the_card_of_a_run_holds_its_results_as_the_hub_reads_them(finished: Path) -> None:
    card = ModelCard.load(finished / "best" / "model" / "README.md")
    verdict = json.loads((finished / "verdict.json").read_text())
    results = {r.dataset_type: r.metric_value for r in card.data.eval_results}
    assert results == pytest.approx(verdict["scores"]["winner"], abs=1e-6)
    assert card.data.base_model is None  # its parents are folders, which the hub cannot link to
    assert verdict["sentence"] in card.text
    for comparison in verdict["comparisons"]:
        row = f"| {comparison['against']} | {comparison['difference']:+.3f} | "
        assert row in card.text
    recipe = Recipe.from_yaml(finished / "best" / "recipe.yaml")
    for name in recipe.method_names:
        assert f"- `{name}`: {methods.get(name).reference}" in card.text
    assert "No licence is stated by" in card.text
    assert str(finished.parent) not in card.content
