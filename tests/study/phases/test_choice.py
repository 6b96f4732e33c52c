"""The optimizer of a study that names none follows from its space and its tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evomerge.study.config import StudyConfig
from evomerge.study.context import study_space
from evomerge.study.phases.choice import with_optimizer

BY_TENSOR = "task_arithmetic_by_tensor"
MANY_KNOTS = {
    "merge_method": "ties",
    "models": [
        {
            "model": "*",
            "parameters": {
                "weight": {"low": 0, "high": 1, "knots": 12},
                "density": {"low": 0.1, "high": 1, "knots": 12},
            },
        }
    ],
}


def config_of(small_study: Path, space: Any, **sections: Any) -> StudyConfig:
    document = json.loads(small_study.read_text())
    document |= {"space": space, "search": {"trials": 70, **sections.pop("search", {})}}
    for key, value in sections.items():
        document[key] = {**document[key], **value}
    return StudyConfig.from_dict(document, small_study.parent)


def chosen(config: StudyConfig, external: bool = False) -> tuple[Any, Any, str]:
    with_name, why = with_optimizer(config, study_space(config), external)
    return with_name.search.optimizer, with_name.search.then, why


def test_where_all_is_smooth_it_is_adam_alone(small_study: Path) -> None:
    for space in (BY_TENSOR, "global_linear"):
        name, then, why = chosen(config_of(small_study, space))
        assert (name, then) == ("adam", None)
        assert "dimensions changes the merge smoothly" in why


@pytest.mark.parametrize(
    ("space", "first"), [("ties_by_depth", "catcma"), (MANY_KNOTS, "coarse_to_fine")]
)
def test_where_a_part_has_a_gradient_adam_has_the_last_seventh_of_the_trials(
    small_study: Path, space: Any, first: str
) -> None:
    name, then, why = chosen(config_of(small_study, space))
    assert name == first
    assert (then.optimizer, then.after, then.options) == ("adam", 60, {"piecewise": True})
    assert "in the last 10 trials" in why
    _, then, _ = chosen(config_of(small_study, space, search={"trials": 6}))
    assert then is None


@pytest.mark.parametrize(
    ("sections", "external", "name", "words"),
    [
        ({"evaluate": {"fitness": "metric"}}, False, "catcma", "scores have no gradient"),
        ({"search": {"objective": "pareto"}}, False, "nsga2", "several objectives"),
        ({}, True, "catcma", "evaluated externally"),
        ({"search": {"optimizer": "cmaes"}}, False, "cmaes", "as the study says"),
    ],
)
def test_without_gradients_it_searches_by_scores(
    small_study: Path, sections: dict[str, Any], external: bool, name: str, words: str
) -> None:
    actual, then, why = chosen(config_of(small_study, BY_TENSOR, **sections), external)
    assert words in why
    if name == "catcma":  # a value for each tensor is a gradient over depth
        assert actual in ("catcma", "coarse_to_fine")
    else:
        assert actual == name
    assert then is None
