"""Every notebook runs from the first cell to the last, on models that are made in seconds."""

import json
import os
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from evomerge.demo.tasks import write_tasks
from tests.study.small_study import finished_study, real_study

ROOT = Path(__file__).parents[2]
NOTEBOOKS = {path.stem[:2]: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
SMALL_ZOO = {"hidden": 32, "layers": 2, "base_steps": 5, "expert_steps": 2}

# nbclient's own event loop and zmq sockets; nothing that a notebook could do about it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    """Two tiny models and their base, tasks, and (beside them) a study file."""
    return real_study(tmp_path_factory.getbasetemp() / "real-study").parent / "zoo"


@pytest.fixture
def execute(monkeypatch):
    """Runs a notebook with values in place of its parameters; returns what it printed."""

    def run(number, **parameters):
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT)]))
        notebook = nbformat.read(NOTEBOOKS[number], as_version=4)
        settings = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
        assert len(settings) == 1, "a notebook has one cell tagged `parameters`"
        settings[0].source = "\n".join(f"{k} = {v!r}" for k, v in parameters.items())
        NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
        outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
        run.images = sum("image/png" in out.get("data", {}) for out in outputs)
        return "".join(
            out.text
            for cell in notebook.cells
            for out in cell.get("outputs", [])
            if out.output_type == "stream" and out.name == "stdout"
        )

    return run


def small_models(zoo):
    return {"base": str(zoo / "base"), "models": [str(zoo / "one"), str(zoo / "two")]}


@pytest.mark.slow
def test_a_first_search(execute, tmp_path):
    folder = str(tmp_path / "demo")
    printed = execute("01", folder=folder, zoo_size=SMALL_ZOO, trials=14, workers=1)
    assert "mprovement shown" in printed
    assert (tmp_path / "demo" / "notebook-run" / "verdict.json").is_file()
    assert execute.images == 3  # plots of one notebook are all shown, not the first alone


def test_writing_a_merge_method(execute, zoo, tmp_path):
    printed = execute("02", **small_models(zoo), out=str(tmp_path / "out"))
    assert "strength: " in printed
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.slow
def test_writing_an_objective(execute, zoo, tmp_path):
    printed = execute("03", **small_models(zoo), run=str(tmp_path / "run"), trials=8)
    assert "mprovement shown" in printed
    assert "Trial(" in printed


@pytest.mark.slow
def test_reading_a_run(execute, zoo):
    run = finished_study(zoo.parent)
    printed = execute("04", run=str(run))
    assert json.loads((run / "verdict.json").read_text())["sentence"] in printed


@pytest.mark.slow
def test_from_mergekit_evolve(execute, zoo, tmp_path):
    shutil.copytree(zoo, tmp_path / "zoo")
    printed = execute(
        "05",
        folder=str(tmp_path),
        models=["zoo/one", "zoo/two"],
        tasks=["small_choice"],
        metric="acc,none",
        task_folder=str(zoo.parent / "tasks"),
        trials=8,
    )
    assert "mprovement shown" in printed
    assert "merge_method: task_arithmetic" in printed


def test_the_defaults_of_the_last_notebook_are_metrics_of_the_demo(tmp_path):
    cells = nbformat.read(NOTEBOOKS["05"], as_version=4).cells
    (settings,) = (c.source for c in cells if "parameters" in c.metadata.get("tags", []))
    shipped = {}
    exec(settings, shipped)
    write_tasks(tmp_path, tmp_path)
    for task in shipped["tasks"]:
        text = (tmp_path / f"{task}.yaml").read_text()
        assert f"metric: {shipped['metric'].partition(',')[0]}\n" in text


@pytest.mark.parametrize("number", NOTEBOOKS)
def test_a_notebook_is_stored_with_what_it_shows_and_without_noise(number):
    notebook = nbformat.read(NOTEBOOKS[number], as_version=4)
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert outputs
    assert not [out for out in outputs if out.output_type == "error"]
    text = "".join(out.get("text", "") for out in outputs if out.output_type == "stream")
    assert "Warning" not in text
    assert "Loading weights" not in text
    assert len(json.dumps(notebook)) < 400_000


def test_every_notebook_is_run_by_a_test_of_its_own():
    source = Path(__file__).read_text()
    run = {n for n in NOTEBOOKS if f'execute("{n}"' in source or f'        "{n}",' in source}
    assert run == NOTEBOOKS.keys()
