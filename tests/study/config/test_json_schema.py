"""The JSON schema takes every study file of the repository, and what it refuses is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from evomerge.cli.commands.catalogue import study_schema
from evomerge.core import yaml_file
from evomerge.core.errors import UserError
from evomerge.study.config import StudyConfig
from evomerge.study.config.json_schema import json_schema

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = study_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def studies() -> dict[str, Any]:
    """Every study file in the repository, and those in the pages."""
    documents = {}
    for file in [*ROOT.glob("experiments/**/*.yaml"), *ROOT.glob("experiments/**/*.yml")]:
        text = file.read_text(encoding="utf-8")
        if re.search(r"^base_model:", text, re.M) and re.search(r"^evaluate:", text, re.M):
            documents[str(file.relative_to(ROOT))] = yaml_file.parse(text, str(file))
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        blocks = re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
        for i, text in enumerate(blocks):
            document = yaml_file.parse(text, str(page))
            if "base_model" in document and "evaluate" in document:
                documents[f"{page.name}, block {i}"] = document
    return documents


def test_every_study_file_of_the_repository_is_valid(validator: Any):
    documents = studies()
    assert len(documents) >= 4
    for name, document in documents.items():
        problems = [f"{e.json_path}: {e.message}" for e in validator.iter_errors(document)]
        assert problems == [], name


STUDY: dict[str, Any] = {
    "base_model": "b",
    "models": ["a", {"model": "b", "adapter": "c"}],
    "space": "ties_by_depth",
    "evaluate": {"tasks": ["t", {"name": "f", "metric": "acc"}]},
}


@pytest.mark.parametrize(
    "changed",
    [
        {"search": {"trails": 3}},
        {"search": {"trials": "three"}},
        {"search": {"objective": "both"}},
        {"models": "a"},
        {"evaluate": {"tasks": [{"metric": "acc"}]}},
        {"evaluate": {"tasks": [{"name": "t", "texts": "x"}]}},
        {"workers": {"backend": "slurm"}},
        {"nonsense": 1},
    ],
)
def test_what_the_reader_refuses_by_kind_or_key_the_schema_refuses(validator: Any, changed: Any):
    assert validator.is_valid(STUDY)
    assert not validator.is_valid({**STUDY, **changed})
    with pytest.raises(UserError):
        StudyConfig.from_dict({**STUDY, **changed}, Path("/"))


def test_every_section_written_out_with_its_defaults_is_valid(validator: Any):
    config = StudyConfig.from_dict(STUDY, Path("/"))
    document = config.to_dict()
    problems = [f"{e.json_path}: {e.message}" for e in validator.iter_errors(document)]
    assert problems == []


def test_variables_may_stand_for_numbers_and_every_key_has_words(validator: Any):
    assert validator.is_valid({**STUDY, "search": {"trials": "${TRIALS:-10}"}})

    def properties(schema: Any) -> Any:
        if isinstance(schema, dict):
            yield from schema.get("properties", {}).items()
            for value in schema.values():
                yield from properties(value)
        elif isinstance(schema, list):
            for value in schema:
                yield from properties(value)

    for name, value in properties(json_schema()):
        assert name in ("model", "adapter") or len(value["description"]) > 5, name


def test_variables_and_settings_reach_a_study_file(tmp_path: Path, monkeypatch: Any):
    file = tmp_path / "study.yaml"
    (tmp_path / "zoo" / "b").mkdir(parents=True)
    file.write_text(
        "base_model: ${ZOO}/b\nmodels: [a]\nspace: ties_by_depth\n"
        "evaluate: {tasks: [t]}\nsearch: {trials: '${TRIALS}'}\n"
    )
    monkeypatch.setenv("ZOO", "zoo")
    monkeypatch.setenv("TRIALS", "30")
    config = StudyConfig.from_yaml(file, ["search.seed=5", "evaluate.tasks=[u]"])
    assert config.base_model == str(tmp_path / "zoo" / "b")
    assert (config.search.trials, config.search.seed) == (30, 5)
    assert [task.name for task in config.evaluate.tasks] == ["u"]
    with pytest.raises(UserError, match="did you mean 'trials'"):
        StudyConfig.from_yaml(file, ["search.trails=5"])
