"""A user's mistake: code 2, one line that names the place, and nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from evomerge.study.study import JOURNAL
from tests.cli.conftest import Run, Said
from tests.study.small_study import WORDS, tokenizer

StudyFile = Callable[..., Path]
ROOT = Path(__file__).parents[2]


def assert_refused(result: Said, *words: object) -> None:
    """One line on stderr that holds these words, and code 2."""
    assert result.code == 2, result
    assert result.err.startswith("evomerge: error: ")
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.err
    for word in words:
        assert str(word) in result.err, result.err


# -- models ----------------------------------------------------------------------------------------


def no_config(zoo: Path) -> None:
    (zoo / "two" / "config.json").unlink()


def no_weights(zoo: Path) -> None:
    (zoo / "two" / "model.safetensors").unlink()


def pickled(zoo: Path) -> None:
    (zoo / "two" / "model.safetensors").rename(zoo / "two" / "pytorch_model.bin")


def truncated(zoo: Path) -> None:
    file = zoo / "two" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def other_shape(zoo: Path) -> None:
    file = zoo / "two" / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, file, metadata={"format": "pt"})


def missing_tensor(zoo: Path) -> None:
    file = zoo / "two" / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.norm.weight"]
    save_file(tensors, file, metadata={"format": "pt"})


def not_finite(zoo: Path) -> None:
    file = zoo / "two" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.self_attn.q_proj.weight"][0, :3] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})


def other_tokens(zoo: Path) -> None:
    swapped = (WORDS[1], WORDS[0], *WORDS[2:])
    tokenizer(swapped).save_pretrained(zoo / "two")


def no_folder(zoo: Path) -> None:
    shutil.rmtree(zoo / "two")


def a_file(zoo: Path) -> None:
    shutil.rmtree(zoo / "two")
    (zoo / "two").write_text("not a model")


SPOILT: list[tuple[Callable[[Path], None], list[str]]] = [
    (no_config, ["zoo/two", "no config.json"]),
    (no_weights, ["zoo/two", "expected safetensors weights"]),
    (pickled, ["zoo/two", "pytorch_model.bin is a pickle"]),
    (truncated, ["zoo/two/model.safetensors", "truncated"]),
    (other_shape, ["zoo/two", "model.layers.1.mlp.up_proj.weight is [31, 32], expected [32, 32]"]),
    (missing_tensor, ["zoo/two", "model.norm.weight is missing"]),
    (not_finite, ["zoo/two", "model.layers.0.self_attn.q_proj.weight", "3 values that are NaN"]),
    (other_tokens, ["zoo/two", "its tokenizer differs", "'w0'=4"]),
    (no_folder, ["zoo/two", "no such folder"]),
    (a_file, ["zoo/two"]),
]


@pytest.mark.usefixtures("real_workers")
@pytest.mark.parametrize(("spoil", "words"), SPOILT, ids=[spoil.__name__ for spoil, _ in SPOILT])
def test_spoilt_models_are_named_by_search_and_by_build(
    evomerge: Run,
    small_study: StudyFile,
    tmp_path: Path,
    spoil: Callable[[Path], None],
    words: list[str],
) -> None:
    study = small_study()
    zoo = study.parent / "zoo"
    recipe = study.parent / "recipe.yaml"
    models = [{"model": f"zoo/{name}", "parameters": {"weight": 0.5}} for name in ("one", "two")]
    recipe.write_text(
        json.dumps({"merge_method": "task_arithmetic", "base_model": "zoo/base", "models": models})
    )
    spoil(zoo)
    result = evomerge("build", recipe, tmp_path / "out")
    assert_refused(result, *words)
    assert not result.out
    assert not (tmp_path / "out").exists()
    run = tmp_path / "run"
    assert_refused(evomerge("search", study, run), *words)
    assert sorted(file.name for file in run.iterdir()) == [JOURNAL]
    assert_refused(evomerge("check", study), *words)


@pytest.mark.usefixtures("real_workers")
def test_a_mended_study_goes_on_in_the_same_folder(
    evomerge: Run, small_study: StudyFile, zoo: Path, tmp_path: Path
) -> None:
    study, run = small_study(), tmp_path / "run"
    not_finite(study.parent / "zoo")
    assert evomerge("search", study, run).code == 2
    shutil.copytree(zoo / "two", study.parent / "zoo" / "two", dirs_exist_ok=True)
    result = evomerge("search", study, run)
    assert result.code == 0, result.err
    save = study.parent / "zoo" / "two"
    shutil.copytree(zoo / "hidden", save, dirs_exist_ok=True)
    assert_refused(
        evomerge("search", study, run, "--trials", 8), "a parent's weights changed", save
    )


# -- tasks and studies -----------------------------------------------------------------------------


@pytest.mark.usefixtures("real_workers")
@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        (["small_chioce"], ["unknown task 'small_chioce'", "small_choice"]),
        ([{"name": "small_choice", "metric": "accc"}], ["small_choice", "'accc'", "acc"]),
        pytest.param(["broken"], ["broken"], marks=pytest.mark.slow),  # reads all of lm-eval's own
        (["needs_code"], ["needs_code", "runs code of its own", "allow_task_code"]),
        (["no_data"], ["no_data"]),
    ],
)
def test_tasks_that_cannot_be_scored_are_named(
    evomerge: Run, small_study: StudyFile, tmp_path: Path, tasks: list[Any], words: list[str]
) -> None:
    study = small_study(evaluate={"tasks": tasks})
    folder = study.parent / "tasks"
    (folder / "broken.yaml").write_text("task: broken\n  output_type: [unclosed\n")
    (folder / "needs_code.yaml").write_text(
        "task: needs_code\ndataset_path: json\ndoc_to_text: !function code.text\n"
    )
    (folder / "no_data.yaml").write_text(
        (folder / "small_choice.yaml")
        .read_text()
        .replace("task: small_choice", "task: no_data")
        .replace("documents.jsonl", "nowhere.jsonl")
    )
    run = tmp_path / "run"
    assert_refused(evomerge("search", study, run), *words)
    assert sorted(file.name for file in run.iterdir()) == [JOURNAL]


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"space": "no_such_space"}, ["no_such_space", "unknown space"]),
        (
            {"space": {"merge_method": "tise", "models": [{"model": "*"}]}},
            ["unknown merge method 'tise'", "did you mean 'ties'"],
        ),
        (
            {
                "space": {
                    "merge_method": "ties",
                    "models": [
                        {"model": "*", "parameters": {"density": {"low": 0.1, "high": 1.7}}}
                    ],
                }
            },
            ["density", "1.7"],
        ),
        (
            {
                "space": {
                    "merge_method": "linear",
                    "models": [{"model": "*", "parameters": {"weight": {"low": 1, "high": 0}}}],
                }
            },
            ["weight", "low", "high"],
        ),
        ({"search": {"optimizer": "cmaess"}}, ["unknown optimizer 'cmaess'", "cmaes"]),
        ({"serach": {"trials": 3}}, ["study.yaml", "unknown key 'serach'", "search"]),
        (
            {"workers": {"count": "two"}},
            ["workers.count: expected a whole number or all, but got 'two'"],
        ),
    ],
)
def test_studies_that_cannot_work_leave_no_run_folder(
    evomerge: Run,
    stub_study: StudyFile,
    tmp_path: Path,
    sections: dict[str, Any],
    words: list[str],
) -> None:
    study = stub_study(**sections)
    assert_refused(evomerge("search", study, tmp_path / "run"), *words)
    assert not (tmp_path / "run").exists()
    assert_refused(evomerge("check", study), *words)


@pytest.mark.parametrize("command", ["search", "check"])
def test_missing_and_unreadable_study_files_are_named(
    evomerge: Run, tmp_path: Path, command: str
) -> None:
    rest = [tmp_path / "run"] if command == "search" else []
    missing = tmp_path / "missing.yaml"
    assert_refused(evomerge(command, missing, *rest), missing, "no such file")
    bad = tmp_path / "bad.yaml"
    for text, word in {
        "models: [a": "not valid YAML",
        "a: &x 1\nb: *x\n": "aliases are not read",
        "a: 1\na: 2\n": "appears twice",
        "- a\n": "expected a mapping",
        "\x00": "not valid YAML",
    }.items():
        bad.write_text(text)
        assert_refused(evomerge(command, bad, *rest), bad, word)
    bad.write_bytes(b"\xff\xfe\xff")
    assert_refused(evomerge(command, bad, *rest), bad, "expected UTF-8")
    assert_refused(evomerge(command, tmp_path, *rest), tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_deadline_that_is_none_is_named(
    evomerge: Run, stub_study: StudyFile, tmp_path: Path
) -> None:
    result = evomerge("search", stub_study(), tmp_path / "run", "--deadline", "tomorrow")
    assert_refused(result, "--deadline", "expected a time span such as 45m", "'tomorrow'")


def test_a_run_folder_that_is_a_file_or_below_one_is_refused(
    evomerge: Run, stub_study: StudyFile, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    study = stub_study()
    assert_refused(evomerge("search", study, file), file, "it is a file")
    assert_refused(evomerge("search", study, file / "run"), file)
    assert file.read_text() == "precious"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_run_folder_that_cannot_be_made_is_refused(
    evomerge: Run, stub_study: StudyFile, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    assert_refused(evomerge("search", stub_study(), closed / "run"), closed)


def test_a_corrupt_journal_is_refused_by_all_and_left_alone(
    evomerge: Run, stub_study: StudyFile, tmp_path: Path
) -> None:
    run, study = tmp_path / "run", stub_study()
    assert evomerge("search", study, run, "--trials", 4).code == 0
    journal = run / JOURNAL
    data = bytearray(journal.read_bytes())
    data[len(data) // 2] ^= 1
    journal.write_bytes(data)
    for command in (["search", study, run], ["status", run], ["report", run]):
        assert_refused(evomerge(*command), "journal.log is damaged at byte", "evomerge repair")
    assert journal.read_bytes() == data
    journal.write_text("my diary\n")
    for command in (["search", study, run], ["status", run], ["report", run]):
        assert_refused(evomerge(*command), "is not an evomerge journal")
    assert journal.read_text() == "my diary\n"


def test_a_population_beyond_the_trials_is_refused(evomerge: Run, stub_study: StudyFile) -> None:
    study = stub_study(search={"trials": 16, "population": 3000})
    assert_refused(evomerge("check", study), "expected at most search.trials (16), but got 3000")


def test_another_study_in_the_folder_is_refused_with_the_key(
    evomerge: Run, stub_study: StudyFile, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert evomerge("search", stub_study(), run, "--trials", 4).code == 0
    result = evomerge("search", stub_study(search={"optimizer": "cmaes"}), run)
    assert_refused(result, run, "search.optimizer was catcma, now cmaes")
    other = evomerge("search", stub_study(models=["one", "another-folder"]), run)
    assert_refused(other, "study.models[1] was two, now another-folder")


# -- recipes and names -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"merge_method": "tiess"}, ["recipe.yaml", "unknown merge method 'tiess'", "'ties'"]),
        ({"models": [{"model": "zoo/nobody"}]}, ["zoo/nobody"]),
        ({"models": []}, ["recipe.yaml", "models"]),
        (
            {"models": [{"model": "zoo/one", "parameters": {"weihgt": 1}}]},
            ["recipe.yaml", "weihgt", "weight"],
        ),
        (
            {"models": [{"model": "zoo/one", "parameters": {"density": 3, "weight": 1}}]},
            ["recipe.yaml", "density", "3"],
        ),
        ({"base_model": None}, ["recipe.yaml", "base_model"]),
        ({"dtype": "int4"}, ["recipe.yaml", "int4"]),
    ],
)
def test_recipes_that_cannot_be_built_leave_nothing(
    evomerge: Run, zoo: Path, tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    document: dict[str, Any] = {
        "merge_method": "ties",
        "base_model": str(zoo / "base"),
        "models": [{"model": str(zoo / "one"), "parameters": {"weight": 1.0, "density": 0.5}}],
        **changes,
    }
    if document["base_model"] is None:
        del document["base_model"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(document))
    out = tmp_path / "out"
    assert_refused(evomerge("build", recipe, out), *words)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["recipe.yaml"]


def test_build_prints_the_digest_last_and_refuses_a_folder_that_holds_something(
    evomerge: Run, zoo: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    models = [{"model": str(zoo / name), "parameters": {"weight": 1}} for name in ("one", "two")]
    recipe.write_text(json.dumps({"merge_method": "linear", "models": models}))
    out = tmp_path / "out"
    result = evomerge("build", recipe, out)
    assert result.code == 0, result.err
    digest = result.out.splitlines()[-1]
    assert len(digest) == 64
    assert set(digest) <= set("0123456789abcdef")
    contents = {file.name: file.read_bytes() for file in out.iterdir()}
    assert_refused(evomerge("build", recipe, out), out, "already exists")
    assert {file.name: file.read_bytes() for file in out.iterdir()} == contents
    (tmp_path / "empty").mkdir()
    assert evomerge("build", recipe, tmp_path / "empty").out.splitlines()[-1] == digest
    assert_refused(
        evomerge("build", tmp_path / "none.yaml", tmp_path / "x"), "none.yaml: no such file"
    )
    assert_refused(evomerge("build", recipe, recipe), recipe, "already exists")
