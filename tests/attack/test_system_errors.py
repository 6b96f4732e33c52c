"""Refusals of the system are one line and code 2, never a traceback, and leave nothing behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evomerge.core.atomic import atomic_folder, beside, sweep, write_text
from evomerge.core.errors import UserError
from evomerge.merge.build import build
from evomerge.recipe.recipe import Recipe
from tests.models import make_family

ROOT = Path(__file__).parents[2]
BUILD = "from evomerge.cli import main; import sys; sys.exit(main(['build', 'recipe.yaml', 'out']))"


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def recipe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    family = make_family(folder)
    models = [{"model": family[name], "parameters": {"weight": 1}} for name in "ab"]
    document = {"merge_method": "task_arithmetic", "base_model": family["base"], "models": models}
    Recipe.from_dict(document).to_yaml(folder / "recipe.yaml")
    return folder


# -- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 120, 121, 250, 255])
@pytest.mark.parametrize("letter", ["x", "λ"])
def test_files_and_folders_of_any_name_that_the_system_takes_are_made(
    tmp_path: Path, length: int, letter: str
) -> None:
    name = letter * (length // len(letter.encode()) or 1)
    write_text(tmp_path / name, "text")
    assert (tmp_path / name).read_text() == "text"
    (tmp_path / name).unlink()
    with atomic_folder(tmp_path / name) as folder:
        (folder / "file").write_text("text")
    with atomic_folder(tmp_path / name, replace=True) as folder:
        (folder / "file").write_text("new")
    assert (tmp_path / name / "file").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 1


def test_leftovers_of_long_names_are_told_apart_and_swept(tmp_path: Path) -> None:
    one, two = tmp_path / ("x" * 200 + "1"), tmp_path / ("x" * 200 + "2")
    assert beside(one) != beside(two)
    left = Path(str(beside(one)).replace(f"-{os.getpid()}-", "-999999999-"))
    left.write_text("half")
    sweep(two)
    assert left.exists()
    sweep(one)
    assert not left.exists()


def test_build_takes_a_long_name_and_refuses_one_that_is_too_long(
    recipe_folder: Path, tmp_path: Path
) -> None:
    build(recipe_folder / "recipe.yaml", tmp_path / ("x" * 250))
    command = [sys.executable, "-c", BUILD.replace("'out'", f"'{'x' * 256}'")]
    done = run(command, recipe_folder)
    assert done.returncode == 2
    assert "File name too long" in done.stderr
    assert done.stderr.count("\n") == 1


# -- kernels ----------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
@pytest.mark.slow  # it compiles the kernels once more
def test_no_kernel_is_left_in_the_temporary_folder_where_the_cache_cannot_be_written(
    recipe_folder: Path, tmp_path: Path
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    kill = BUILD.replace("sys.exit(main(", "code = main(").replace("]))", "])")
    kill += "; import os, signal; print(code, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    command = [sys.executable, "-c", kill]
    done = run(command, recipe_folder, TMPDIR=str(temporary), EVOMERGE_CACHE="/proc/nowhere")
    assert done.stdout.endswith("0\n"), done.stderr
    assert "the C++ kernels cannot be used" not in done.stderr
    assert list(temporary.rglob("*.so")) == []


# -- scores -----------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ["1e308", "-1e308", "1e61", "float('nan')", "10**400"])
def test_scores_that_no_sum_can_hold_fail_their_trials(
    small_study: Path, evomerge: Any, score: str
) -> None:
    import json

    home = small_study.parent
    (home / "score.py").write_text(f"def score(model, tokenizer):\n    return [{score}] * 40\n")
    document = json.loads(small_study.read_text())
    function = {"name": "mine", "function": "score.py:score", "items": 40}
    document["evaluate"] = {"tasks": [function], "allow_task_code": True}
    small_study.write_text(json.dumps(document))
    said = evomerge("search", small_study, home / "run")
    assert said.code == 2
    assert "Traceback" not in said.err
    assert "internal error" not in said.err


def test_the_largest_scores_that_are_taken_give_a_verdict(small_study: Path, evomerge: Any) -> None:
    import json

    home = small_study.parent
    (home / "score.py").write_text(
        "def score(model, tokenizer):\n"
        "    sign = 1 if float(next(model.parameters()).flatten()[0]) > 0 else -1\n"
        "    return [sign * 1e60, -1e60] * 20\n"
    )
    document = json.loads(small_study.read_text())
    function = {"name": "mine", "function": "score.py:score", "items": 40}
    document["evaluate"] = {"tasks": [function], "allow_task_code": True, "fitness": "metric"}
    small_study.write_text(json.dumps(document))
    said = evomerge("search", small_study, home / "run")
    assert said.code == 0, said.err
    for command in ("status", "explain", "report"):
        assert evomerge(command, home / "run").code == 0


# -- settings of generation ---------------------------------------------------------------------


def test_a_changed_generation_config_is_named_and_not_taken_for_rounding(
    small_study: Path, evomerge: Any
) -> None:
    home = small_study.parent
    run = home / "run"
    said = evomerge("search", small_study, run)
    assert said.code == 0, said.err
    text = small_study.read_text()
    small_study.write_text(text.replace('"trials": 4', '"trials": 8'))
    settings = home / "zoo" / "base" / "generation_config.json"
    before = settings.read_text()
    settings.write_text(before.replace('"eos_token_id": 2', '"eos_token_id": 9'))
    assert settings.read_text() != before
    said = evomerge("search", small_study, run)
    assert said.code == 2
    assert "the base's generation_config.json changed since this study began" in said.err
    assert "rounding" not in said.err
    settings.write_text(before.replace('"transformers_version"', '"transformers_versions_"'))
    assert evomerge("search", small_study, run).code == 2
    settings.write_text(before)
    assert evomerge("search", small_study, run).code == 0


# -- errors that the kernel gives -----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace")
@pytest.mark.parametrize(
    "fault",
    [
        *("flock:EIO:1", "flock:ENOLCK:1", "unlink:EIO:1", "unlink:EIO:2", "unlink:EACCES:2"),
        *("clone3:EAGAIN:3", "clone3:EAGAIN:4", "clone3:EAGAIN:5", "clone3:EAGAIN:6"),
        *("fdatasync:EIO:20", "fsync:EIO:1", "rename:EIO:1", "ftruncate:EIO:1"),
    ],
)
def test_an_error_of_the_kernel_is_one_line_and_the_run_resumes(
    small_study_file: Path, tmp_path: Path, fault: str
) -> None:
    call, code, when = fault.split(":")
    trace = ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
    trace += ["-e", f"inject={call}:error={code}:when={when}"]
    command = [sys.executable, "-m", "evomerge", "search", str(small_study_file), "run"]
    done = run([*trace, *command], tmp_path)
    print(f"{fault}: code {done.returncode}: {done.stderr.strip()[-200:]}")
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    assert done.returncode in (0, 2)
    if done.returncode:
        assert done.stderr.strip().splitlines()[-1].startswith("evomerge: error: ")
    again = run(command, tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "run" / "verdict.json").is_file()


@pytest.mark.slow
def test_a_ray_that_cannot_start_is_one_line(small_study_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "evomerge", "search", str(small_study_file), "run"]
    text = small_study_file.read_text()
    small_study_file.write_text(text.replace('"backend": "local"', '"backend": "ray"'))
    done = run(command, tmp_path, RAY_TMPDIR="/proc/nowhere")
    assert done.returncode == 2, done.stderr
    assert "workers: cannot use Ray at this machine: " in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_written_is_one_line(recipe_folder: Path) -> None:
    with pytest.raises((UserError, OSError), match="/proc"):
        build(recipe_folder / "recipe.yaml", "/proc/nowhere/out")
    done = run([sys.executable, "-c", BUILD.replace("'out'", "'/proc/nowhere/out'")], recipe_folder)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
