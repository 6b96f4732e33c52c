"""Files and folders appear whole or not at all, and what a dead process left is swept away."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from evomerge.core import atomic, faults
from evomerge.core.atomic import atomic_folder
from evomerge.core.errors import UserError


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    faults.arm(None)


@pytest.mark.parametrize("point", ["file.write", "file.sync", "file.rename"])
def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, point: str
) -> None:
    file = tmp_path / "file.txt"
    atomic.write_text(file, "old")
    faults.arm(f"{point}:1:eio")
    with pytest.raises(OSError, match="Input/output error"):
        atomic.write_text(file, "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]
    assert file.read_text() == "old"
    atomic.write_text(file, "new")
    assert file.read_text() == "new"


@pytest.mark.parametrize("point", ["folder.sync", "folder.rename"])
@pytest.mark.parametrize("action", ["enospc", "eio"])
def test_a_folder_that_cannot_be_written_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, point: str, action: str
) -> None:
    target = tmp_path / "model"
    with atomic_folder(target) as folder:
        (folder / "weights").write_text("old")
    faults.arm(f"{point}:1:{action}")
    cause = "disk full" if action == "enospc" else os.strerror(errno.EIO)
    with (
        pytest.raises(UserError, match=f"cannot write .*model: {cause}; nothing was left behind"),
        atomic_folder(target, replace=True) as folder,
    ):
        (folder / "weights").write_text("new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    assert (target / "weights").read_text() == "old"


def test_leftovers_of_a_killed_process_are_swept_and_files_of_a_living_one_are_not(
    tmp_path: Path,
) -> None:
    code = (
        "import sys, os, signal; from pathlib import Path\n"
        "from evomerge.core.atomic import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'half').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    target = tmp_path / "model"
    killed = subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert killed.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".model.partial-")
    ours = atomic.beside(target.with_name("other"))
    ours.mkdir()
    others = tmp_path / ".model.partial-elsewhere-1-1"  # of another machine: not ours to judge
    others.mkdir()
    reused = tmp_path / left.name.replace(left.name.split("-")[-2], str(os.getpid()))
    reused.mkdir()  # this process's number, but another's beginning
    with atomic_folder(target) as folder:
        (folder / "whole").touch()
    assert sorted(tmp_path.iterdir()) == sorted([target, ours, others])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("journal.wirte:1:kill", "unknown point 'journal.wirte': did you mean 'journal.write'"),
        ("journal.write:1:kil", "unknown action 'kil': did you mean 'kill'"),
        ("journal.write:0:kill", "expected a count of at least 1, but got '0'"),
        ("journal.write", "unknown action ''"),
    ],
)
def test_a_fault_that_is_none_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        faults.arm(text)


def test_a_fault_strikes_once_at_its_count_and_never_where_its_mark_is(
    tmp_path: Path,
) -> None:
    mark = tmp_path / "mark"
    faults.arm(f"file.write:3:error:{mark}")
    for _ in range(2):
        faults.reach("file.write")
        faults.reach("file.sync")
    with pytest.raises(RuntimeError, match="injected"):
        faults.reach("file.write")
    faults.reach("file.write")
    assert mark.exists()
    faults.arm(f"file.write:1:error:{mark}")
    faults.reach("file.write")
