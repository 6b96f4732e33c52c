import signal
import subprocess
import sys

import pytest

from evomerge.core.errors import UserError
from evomerge.demo.folder import MARKER, is_complete, only_builder, written_whole


def _write(folder, made_from, text="weights"):
    with written_whole(folder, made_from) as partial:
        (partial / "model").write_text(text)


def test_a_written_folder_is_complete_for_what_it_was_made_from_and_nothing_else(tmp_path):
    folder = tmp_path / "base"
    assert not is_complete(folder, {"seed": 0})
    _write(folder, {"seed": 0, "steps": (1, 2)})
    assert is_complete(folder, {"seed": 0, "steps": (1, 2)})
    assert not is_complete(folder, {"seed": 1, "steps": (1, 2)})
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize("harm", ["truncate", "remove", "add", "unmark", "garble"])
def test_a_folder_whose_files_changed_is_not_complete(tmp_path, harm):
    folder = tmp_path / "base"
    _write(folder, {})
    match harm:
        case "truncate":
            (folder / "model").write_text("weig")
        case "remove":
            (folder / "model").unlink()
        case "add":
            (folder / "model-2").write_text("more")
        case "unmark":
            (folder / MARKER).unlink()
        case "garble":
            (folder / MARKER).write_text('{"made_from": {}')
    assert not is_complete(folder, {})


def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path):
    folder = tmp_path / "base"
    _write(folder, {"seed": 0})
    with pytest.raises(TypeError, match="must be str"):
        _write(folder, {"seed": 1}, text=b"half")
    assert is_complete(folder, {"seed": 0})
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_an_older_folder_is_replaced_as_a_whole(tmp_path):
    folder = tmp_path / "base"
    _write(folder, {"seed": 0}, "old")
    _write(folder, {"seed": 1}, "new")
    assert (folder / "model").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_folder_that_is_not_ours_is_never_replaced(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="move it away, or choose another directory"):
        _write(folder, {})
    assert (folder / "thesis.tex").read_text() == "years of work"


def test_leftovers_of_a_killed_run_are_cleared(tmp_path):
    kill = (
        "import os, sys; from pathlib import Path; from evomerge.demo.folder import written_whole\n"
    )
    kill += "with written_whole(Path(sys.argv[1]), {}):\n    os.kill(os.getpid(), 9)"
    died = subprocess.run([sys.executable, "-c", kill, tmp_path / "base"], check=False)
    assert died.returncode == -signal.SIGKILL
    assert [path.name.startswith(".base.partial-") for path in tmp_path.iterdir()] == [True]
    with only_builder(tmp_path):
        _write(tmp_path / "base", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "base"]
