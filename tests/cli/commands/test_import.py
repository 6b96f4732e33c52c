"""`evomerge import`: files of mergekit and of mergekit-evolve, read from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from evomerge.core import yaml_file
from evomerge.recipe.recipe import Recipe
from tests.cli.conftest import Run


@pytest.fixture
def small_genome(small_study: Callable[..., Path], real_workers: None) -> Path:
    del real_workers
    study = small_study()
    genome = {
        "models": ["zoo/one", "zoo/two"],
        "base_model": "zoo/base",
        "merge_method": "task_arithmetic",
        "layer_granularity": 1,
        "filters": ["mlp"],
    }
    tasks = ["small_choice", {"name": "small_write", "metric": "exact_match,trim"}]
    file = study.parent / "genome.yaml"
    file.write_text(json.dumps({"genome": genome, "tasks": tasks, "limit": 16}))
    return file


def test_the_study_of_a_genome_file_passes_the_check(
    small_genome: Path, evomerge: Run, tmp_path: Path
) -> None:
    study = tmp_path / "study.yaml"
    tasks = small_genome.parent / "tasks"
    result = evomerge("import", small_genome, study, "--include-path", tasks)
    assert result.code == 0, result.err
    assert result.out.endswith(f"wrote {study}, a study\n")
    assert study.read_text().startswith("# ")
    assert evomerge("check", study).code == 0
    again = evomerge("import", small_genome, study)
    assert again.code == 2
    assert "already exists" in again.err


@pytest.mark.slow
def test_the_study_of_a_genome_file_is_searched_to_its_end(
    small_genome: Path, evomerge: Run, tmp_path: Path
) -> None:
    study = tmp_path / "study.yaml"
    evomerge("import", small_genome, study, "--include-path", small_genome.parent / "tasks")
    result = evomerge("search", study, tmp_path / "run", "--trials", 4)
    assert result.code == 0, result.err
    recipe = yaml_file.read(tmp_path / "run" / "best" / "recipe.yaml")
    assert Recipe.from_dict(recipe).output_dtype == "bfloat16"


def test_a_mergekit_file_becomes_a_recipe_that_builds(
    small_study: Callable[..., Path], evomerge: Run, tmp_path: Path
) -> None:
    home = small_study().parent
    file = home / "merge.yml"
    file.write_text("""\
merge_method: task_arithmetic
base_model: zoo/base
modules:
  default:
    models: [{model: {model: {path: zoo/one}}, parameters: {weight: 0.5, density: 0.3}}]
dtype: bfloat16
""")
    recipe = tmp_path / "recipe.yaml"
    result = evomerge("import", file, recipe)
    assert (result.code, result.err) == (0, "")
    notes = [line.removeprefix("note: ") for line in result.out.splitlines()[:-1]]
    assert [note.split()[0] for note in notes] == ["density", "dtype"]
    assert recipe.read_text().startswith("".join(f"# {note}\n" for note in notes))
    assert evomerge("import", file).out == recipe.read_text()
    assert Recipe.from_yaml(recipe).models[0].model == str(home / "zoo" / "one")
    assert evomerge("build", recipe, tmp_path / "out").code == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("merge_method: ties\nmodel: [a]\n", "unknown key 'model': did you mean 'models'"),
        ("genome: {models: [a], merge_method: linear, smoth: true}\n", "unknown key 'smoth'"),
        ("- a\n", "expected a mapping of names to values"),
    ],
)
def test_a_mistake_is_reported_in_one_line_and_nothing_is_written(
    text: str, message: str, evomerge: Run, tmp_path: Path
) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(text)
    result = evomerge("import", file, tmp_path / "out.yaml")
    assert result.code == 2
    assert result.err.startswith(f"evomerge: error: {file}: ")
    assert message in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "out.yaml").exists()
    result = evomerge("import", tmp_path / "none.yaml")
    assert (result.code, result.out) == (2, "")
