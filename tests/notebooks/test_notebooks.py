"""Every notebook runs from the first cell to the last, on models that are made in seconds."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
SMALL = """
folder = {folder!r}
zoo_size = dict(hidden=32, layers=2, base_steps=5, expert_steps=2)
trials = 14
workers = 1
"""

# nbclient's own event loop and zmq sockets; nothing that a notebook could do about it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_to_its_end(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2])]))
    notebook = nbformat.read(path, as_version=4)
    settings = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assert len(settings) == 1, "a notebook has one cell tagged `parameters`"
    settings[0].source = SMALL.format(folder=str(tmp_path / "demo"))
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    printed = [
        out.text
        for cell in notebook.cells
        for out in cell.get("outputs", [])
        if out.output_type == "stream" and out.name == "stdout"
    ]
    assert any("mprovement shown" in text for text in printed)
    assert (tmp_path / "demo" / "notebook-run" / "verdict.json").is_file()
