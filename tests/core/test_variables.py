"""Environment variables in documents, and values set by path."""

from __future__ import annotations

import pytest

from evomerge.core.errors import UserError
from evomerge.core.variables import expanded, with_settings


def test_a_variable_alone_keeps_its_kind_and_within_a_text_it_is_text():
    document = {"n": "${N}", "list": ["${DIR}/a", "${DIR:-x}", "$${N} $N"], "share": "${S:-0.5}"}
    assert expanded(document, {"N": "7", "DIR": "/d"}, "f") == {
        "n": 7,
        "list": ["/d/a", "/d", "${N} $N"],
        "share": 0.5,
    }


def test_a_variable_that_is_not_set_is_named_with_its_place():
    with pytest.raises(UserError) as error:
        expanded({"models": ["a", "${MODELS}/b"]}, {}, "study.yaml")
    assert str(error.value).startswith("study.yaml: models[1]: the environment has no variable")
    assert "${MODELS:-a default}" in str(error.value)


def test_settings_reach_into_sections_and_lists_and_leave_the_document_as_it_was():
    document = {"models": ["a", "b"], "search": {"trials": 3}}
    settings = ["models[1]=c", "search.options.sigma=0.1", "evaluate.tasks=[x, y]", "seed=null"]
    assert with_settings(document, settings) == {
        "models": ["a", "c"],
        "search": {"trials": 3, "options": {"sigma": 0.1}},
        "evaluate": {"tasks": ["x", "y"]},
        "seed": None,
    }
    assert document == {"models": ["a", "b"], "search": {"trials": 3}}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("search.trials", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("search..trials=3", "expected KEY=VALUE"),
        ("models[2]=c", "expected a list with an entry 2, but it has 1"),
        ("space.x=c", "expected a mapping with a key 'x', but got 'ties'"),
        ("a=[1", "--set a: line 1: not valid YAML"),
    ],
)
def test_a_setting_that_cannot_be_made_is_refused(setting: str, message: str):
    with pytest.raises(UserError) as error:
        with_settings({"models": ["a"], "space": "ties"}, [setting])
    assert message in str(error.value)
