"""Whole tasks: the stock numbers, paid for once, resumed, compared in pairs."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.tasks import TaskManager
from safetensors.torch import load_file, save_file

from evomerge.cli import main
from evomerge.core.errors import UserError
from evomerge.merge.build import build
from evomerge.recipe.recipe import Recipe
from evomerge.study.evaluation import evaluation as module
from evomerge.study.evaluation.entrants import ensemble, entrants
from evomerge.study.evaluation.evaluation import ALL, Evaluation, Progress, evaluate
from evomerge.study.statistics.paired import chance
from evomerge.study.workers.requests import Evaluate, Request
from tests.study.small_study import N_DOCUMENTS, InProcessPool, real_study

TASKS = ["small_choice", {"name": "small_write", "metric": "exact_match"}]
ITEMS = 2 * N_DOCUMENTS


class CountingPool(InProcessPool):
    """Counts the items that it scores."""

    scored = 0

    def submit(self, worker: int, request: Request) -> None:
        """Answer at once."""
        if isinstance(request, Evaluate):
            CountingPool.scored += sum(
                len(ids) for shard in request.shards for ids in shard.values()
            )
        super().submit(worker, request)

    def restart(self, worker: int) -> None:
        """The process that is stopped in the middle goes away with all that it knew."""


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "open_pool", CountingPool)
    CountingPool.scored = 0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return real_study(tmp_path_factory.getbasetemp() / "real-study").parent


def settings(home: Path, tasks: Path | None = None, **evaluate: Any) -> dict[str, Any]:
    about = {"tasks": TASKS, "include_path": [str(tasks or home / "tasks")], "batch_size": 16}
    return {"evaluate": {**about, **evaluate}, "workers": {"device": "cpu"}}


def scored(home: Path, store: Path, *models: object, **also: Any) -> Evaluation:
    return evaluate(entrants([str(m) for m in models], settings(home, **also), home), store)


@pytest.fixture(scope="module")
def both(home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    """Two models on two tasks, and the store that it left."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "open_pool", CountingPool)
        store = tmp_path_factory.mktemp("store")
        return scored(home, store, home / "zoo/base", home / "zoo/one"), store


def test_scores_are_those_of_the_stock_simple_evaluate(
    home: Path, both: tuple[Evaluation, Path]
) -> None:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    model = both[0].models[1]
    stock = lm_eval.simple_evaluate(
        model="hf",
        model_args=f"pretrained={model.name},device=cpu",
        tasks=["small_choice", "small_write"],
        task_manager=TaskManager(include_path=str(home / "tasks"), include_defaults=False),
        batch_size=16,
        bootstrap_iters=0,
    )["results"]
    for task, metric in (("small_choice", "acc"), ("small_write", "exact_match")):
        name = f"{metric},{'none' if metric == 'acc' else 'trim'}"
        assert model.scores[task].score == pytest.approx(stock[task][name], abs=1e-12)
    assert 0 < model.scores[ALL].score < 1


def test_differences_are_paired_by_item(both: tuple[Evaluation, Path]) -> None:
    base, one = both[0].models
    for task, difference in both[0].differences[one.name].items():
        if task == ALL:
            continue
        pairs = list(zip(one.values[task], base.values[task], strict=True))
        assert difference.wins == pairs.count((1.0, 0.0))
        assert difference.losses == pairs.count((0.0, 1.0))
        assert difference.difference == pytest.approx(
            (difference.wins - difference.losses) / N_DOCUMENTS
        )
        spec = {task: {**both[0].tasks[task], "weight": 1.0}}
        is_better = chance({task: one.values[task]}, {task: base.values[task]}, spec) < 0.025
        assert (difference.low > 0) == is_better


def test_an_evaluation_that_was_stopped_goes_on_where_it_was(
    home: Path, both: tuple[Evaluation, Path], tmp_path: Path
) -> None:
    class StoppedError(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.scored == 48:
            raise StoppedError

    entrant = entrants([str(home / "zoo/one")], settings(home), home)
    with pytest.raises(StoppedError):
        evaluate(entrant, tmp_path, listener=stop)
    CountingPool.scored = 0
    resumed = evaluate(entrant, tmp_path)
    assert CountingPool.scored == ITEMS - 48
    assert resumed.models[0].stored == 48
    assert resumed.models[0].values == both[0].models[1].values


def test_what_is_stored_is_found_by_content_whatever_its_name(
    home: Path, both: tuple[Evaluation, Path], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(both[1], store)
    shutil.copytree(home / "zoo/one", tmp_path / "other-name")
    shutil.copytree(home / "tasks", tmp_path / "tasks")
    again = scored(home, store, tmp_path / "other-name")
    assert CountingPool.scored == 0
    assert again.models[0].values == both[0].models[1].values

    weights = load_file(tmp_path / "other-name/model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * 1.5
    save_file(weights, tmp_path / "other-name/model.safetensors", metadata={"format": "pt"})
    scored(home, store, tmp_path / "other-name")
    assert CountingPool.scored == ITEMS

    data = tmp_path / "tasks/documents.jsonl"
    lines = data.read_text().splitlines()
    data.write_text("\n".join([json.dumps({**json.loads(lines[0]), "prompt": "w3 w1 w2"}), *lines]))
    for file in (tmp_path / "tasks").glob("*.yaml"):
        file.write_text(file.read_text().replace(str(home / "tasks"), str(tmp_path / "tasks")))
    more = scored(home, store, home / "zoo/one", tasks=tmp_path / "tasks")
    assert CountingPool.scored == ITEMS + 2  # the new document, in both tasks
    assert more.models[0].values["small_choice"][1:] == both[0].models[1].values["small_choice"]


def test_other_prompts_and_another_dtype_are_scored_anew(
    home: Path, both: tuple[Evaluation, Path], tmp_path: Path
) -> None:
    shutil.copytree(both[1], tmp_path / "store")
    scored(home, tmp_path / "store", home / "zoo/one", system_instruction="w5")
    assert CountingPool.scored == ITEMS
    models = entrants([str(home / "zoo/one")], settings(home), home, "bfloat16")
    assert models[0].config.scored_in == "bfloat16"
    evaluate(models, tmp_path / "store", limit=10)
    assert CountingPool.scored == ITEMS + 20


def test_a_recipe_scores_as_the_model_that_it_makes(home: Path, tmp_path: Path) -> None:
    document = {
        "merge_method": "task_arithmetic",
        "base_model": str(home / "zoo/base"),
        "models": [
            {"model": str(home / "zoo" / name), "parameters": {"weight": weight}}
            for name, weight in (("one", 1.2), ("two", 0.5))
        ],
        "out_dtype": "float32",
    }
    recipe = Recipe.from_dict(document)
    recipe.to_yaml(tmp_path / "recipe.yaml")
    build(recipe, tmp_path / "model")
    together = scored(home, tmp_path / "store", tmp_path / "recipe.yaml", tmp_path / "model")
    assert together.models[0].values == together.models[1].values
    assert together.models[0].scores["small_write"].score > 0.8  # it sets the answers


def test_mistakes_are_named(home: Path, both: tuple[Evaluation, Path], tmp_path: Path) -> None:
    model = str(home / "zoo/one")
    with pytest.raises(UserError, match="expected each model once"):
        entrants([model, model], settings(home), home)
    config = json.loads((home / "zoo/one/config.json").read_text())
    shutil.copytree(home / "zoo/one", tmp_path / "eight")
    (tmp_path / "eight/config.json").write_text(json.dumps({**config, "dtype": "float64"}))
    with pytest.raises(UserError, match=r"config\.json says float64; choose one with --dtype"):
        entrants([str(tmp_path / "eight")], settings(home), home)
    shutil.copytree(both[1], tmp_path / "store")
    for journal in (tmp_path / "store").rglob("journal.log"):
        text = journal.read_bytes()
        journal.write_bytes(text[:150] + bytes([text[150] ^ 1]) + text[151:])
    with pytest.raises(UserError, match="damaged"):
        scored(home, tmp_path / "store", model)


def test_the_command_prints_scores_with_intervals_and_writes_them(
    home: Path,
    both: tuple[Evaluation, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(both[1], tmp_path / "store")
    out = tmp_path / "scores.json"
    command = ["evaluate", str(home / "zoo/base"), str(home / "zoo/one"), "--json", str(out)]
    command += ["--study", str(home / "study.yaml"), "--store", str(tmp_path / "store")]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert CountingPool.scored == 0
    base, one = both[0].models
    for part in ("small_choice (acc)", "one minus base", "intervals are 95 %"):
        assert part in printed
    written = json.loads(out.read_text())
    assert written["models"][1]["values"] == one.values
    assert written["models"][0]["scores"]["mean"]["low"] == base.scores[ALL].low
    assert main(["evaluate", str(home / "zoo/base")]) == 2
    assert "expected tasks: --tasks NAMES" in capsys.readouterr().err
    assert main([*command, "--set", "search.trials=3"]) == 2
    assert "an evaluation has only evaluate, workers" in capsys.readouterr().err


@pytest.mark.slow
def test_a_command_that_is_killed_goes_on(home: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "evomerge", "evaluate", str(home / "zoo/one")]
    command += ["--study", str(home / "study.yaml"), "--store", str(tmp_path)]
    command += ["--set", "evaluate.batch_size=1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    while not any(f.stat().st_size > 2000 for f in tmp_path.rglob("journal.log")):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    again = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "of them stored" in again


def test_an_ensemble_of_one_model_twice_scores_as_that_model(
    home: Path, both: tuple[Evaluation, Path], tmp_path: Path
) -> None:
    models = [str(home / "zoo" / name) for name in ("one", "two")]
    made = [ensemble(mean, models, settings(home), home) for mean in ("probabilities", "logits")]
    scored = evaluate(made, tmp_path)
    assert [model.name for model in scored.models] == [
        "probabilities of 2 models",
        "logits of 2 models",
    ]
    copy = str(shutil.copytree(models[0], tmp_path / "copy"))
    alike = ensemble("logits", [models[0], copy], settings(home), home)
    same = evaluate([alike], tmp_path).models[0]
    assert same.values == both[0].models[1].values  # twice the same model is that model
    file = tmp_path / "recipe.yaml"
    file.write_text("merge_method: linear\n")
    with pytest.raises(UserError, match="is a recipe: build it first"):
        ensemble("logits", [str(file), models[0]], settings(home), home)
