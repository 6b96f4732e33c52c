"""A study whose candidates differ in depth: interrupted or not the same, and exported as scored."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from evomerge.study.config import StudyConfig
from evomerge.study.study import Study
from tests.study.small_study import events

pytestmark = pytest.mark.usefixtures("real_workers")
COUNTED = [{"name": "depth", "counts": "layers"}]


@pytest.fixture
def document(own_study: Callable[..., Path]) -> dict:
    file = own_study()
    document = StudyConfig.from_yaml(file).to_dict()
    document["evaluate"]["tasks"] = [*document["evaluate"]["tasks"], *COUNTED]
    document["space"] = {
        "path": [{"models": ["*"], "times": 2, "include": "search", "hop": "search"}]
    }
    document["search"] |= {"optimizer": "catcma", "population": 4, "constraints": ["depth <= 3"]}
    return document


def run(document: dict, folder: Path, trials: int):
    document["search"]["trials"] = trials
    with Study(StudyConfig.from_dict(document, Path("/")), folder) as study:
        return study.confirm()


def asked_points(folder: Path) -> list:
    return [trial["point"] for ask in events(folder, "asked") for trial in ask["trials"]]


@pytest.mark.slow
def test_it_goes_on_where_it_was_and_exports_what_it_scored(document: dict, tmp_path: Path) -> None:
    run(document, tmp_path / "parts", 4)
    verdict = run(document, tmp_path / "parts", 8)
    assert run(document, tmp_path / "whole", 8).scores == verdict.scores
    asked = [asked_points(tmp_path / part) for part in ("parts", "whole")]
    assert asked[0] == asked[1]
    assert len([point for point in asked[0] if point is not None]) >= 8
    assert "Size and time: " in verdict.sentence
    best = tmp_path / "whole" / "best"
    config = json.loads((best / "model" / "config.json").read_text())
    assert config["num_hidden_layers"] == abs(verdict.scores["winner"]["depth"])
    assert json.loads((tmp_path / "whole" / "verdict.json").read_text())["constraints"]
