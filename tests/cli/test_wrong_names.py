"""Names, places and packages that are not there: code 2 and one line, with the nearest name."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run, Said
from tests.cli.test_mistakes import ROOT, StudyFile, assert_refused
from tests.study.small_study import PYTHON, stub_document


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["methods", "tise"], ["unknown method 'tise'", "did you mean 'ties'"]),
        (["spaces", "tise_by_depth"], ["unknown space", "did you mean 'ties_by_depth'"]),
        (["export", "nowhere.yaml"], ["nowhere.yaml", "no such file"]),
    ],
)
def test_unknown_names_get_the_nearest_known_one(
    evomerge: Run, arguments: list[str], words: list[str]
) -> None:
    assert_refused(evomerge(*arguments), *words)


def test_a_fault_of_ours_has_code_1_and_a_traceback(
    evomerge: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evomerge.recipe.space import shipped

    monkeypatch.setattr(shipped, "shipped", lambda: 1 // 0)
    result = evomerge("spaces")
    assert result.code == 1
    assert "ZeroDivisionError" in result.err
    assert "an internal error" in result.err


def test_an_error_of_a_real_worker_reaches_the_driver_in_one_line(tmp_path: Path) -> None:
    """The whole way: a driver process, a worker process, an exit code."""
    study = tmp_path / "study.yaml"
    study.write_text(json.dumps(stub_document(base_model="nobody/nothing", workers={"count": 1})))
    command = [PYTHON, "-m", "evomerge", "search", str(study), str(tmp_path / "run")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert_refused(Said(result.returncode, result.stdout, result.stderr), "nobody/nothing")


def test_a_folder_in_the_place_of_a_study_file_is_called_a_folder(
    evomerge: Run, tmp_path: Path
) -> None:
    assert_refused(evomerge("check", tmp_path), f"{tmp_path}: expected a file, but it is a folder")


@pytest.mark.parametrize("command", ["status", "watch", "report", "explain", "repair"])
def test_commands_that_look_at_a_run_refuse_a_missing_one_in_the_same_words(
    evomerge: Run, tmp_path: Path, command: str
) -> None:
    missing = tmp_path / "nope"
    assert_refused(evomerge(command, missing), f"{missing}: expected a run folder, but it has no")


def test_a_package_that_is_not_installed_is_named_without_a_traceback(
    evomerge: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from evomerge.cli.commands.runs import status

    def fails(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")

    monkeypatch.setattr(status, "run", fails)
    result = evomerge("status", tmp_path)
    assert result.code == 2
    assert "this command needs the package torch.nn, which is not installed" in result.err
    assert result.err.count("\n") == 1


@pytest.mark.usefixtures("real_workers")
@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"tokenizer": {"pad_to_multiple_of": 64}}, ["it changes the parents' vocabulary"]),
        ({"tokenizer_source": "zoo/three"}, ["unknown tokenizer_source 'zoo/three'"]),
    ],
)
def test_a_space_that_changes_the_vocabulary_is_refused_by_check_and_search(
    evomerge: Run, small_study: StudyFile, tmp_path: Path, more: dict[str, Any], words: list[str]
) -> None:
    weights = {"model": "*", "parameters": {"weight": "search"}}
    space = {"merge_method": "linear", "models": [weights], **more}
    study = small_study()
    study.write_text(json.dumps({**json.loads(study.read_text()), "space": space}))
    assert_refused(evomerge("check", study), *words)
    assert_refused(evomerge("search", study, tmp_path / "run"), *words)
