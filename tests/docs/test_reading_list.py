"""The reading list names every system once, and every name in its sentences is one that exists."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def reading_list() -> Any:
    spec = importlib.util.spec_from_file_location("reading_list", DOCS / "reading_list.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reading_list"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows(reading_list: Any) -> list[dict[str, str]]:
    return [row for section in reading_list.table().values() for row in section]


def test_the_four_lists_have_89_systems_and_each_has_one_row(rows: list[dict[str, str]]) -> None:
    assert len({row["id"] for row in rows}) == len(rows) == 89
    assert len({row["name"] for row in rows}) == 89


def test_every_row_has_a_state_a_source_and_a_sentence(
    reading_list: Any, rows: list[dict[str, str]]
) -> None:
    for row in rows:
        assert row.keys() == {"id", "name", "source", "state", "text"}, row["id"]
        assert row["state"] in reading_list.STATES, row["id"]
        assert len(row["text"]) > 10, row["id"]


def test_what_is_here_names_what_to_use_and_what_is_not_names_what_is_nearest(
    rows: list[dict[str, str]],
) -> None:
    for row in rows:
        if row["state"] in ("here", "partly"):
            assert re.search(r"`\w+:|\]\(", row["text"]), row["id"]
        if row["state"] == "out of scope":
            assert re.search(r"[Nn]earest|as they are|hub ids", row["text"]), row["id"]


def test_every_name_in_a_sentence_is_looked_up(
    reading_list: Any, rows: list[dict[str, str]]
) -> None:
    spans = [(row["id"], span) for row in rows for span in re.findall("`([^`]+)`", row["text"])]
    assert len(spans) > 100
    for system, span in spans:
        assert reading_list.linked(span), system


@pytest.mark.parametrize(
    "span",
    [
        "method:no_such_method",
        "method:ties.no_such_parameter",
        "optimizer:no_such_optimizer",
        "optimizer:adam.no_such_option=1",
        "optimizer:adam.loss=no_such_loss",
        "space:no_such_space",
        "command:no-such-command",
        "command:trajectory no_such_kind",
        "command:build --no-such-option",
        "key:evaluate.no_such_key",
        "recipe:no_such_key",
        "anchor:no such anchor",
        "python:evomerge.no_such_name",
        "ties",
    ],
)
def test_a_name_that_does_not_exist_is_refused(reading_list: Any, span: str) -> None:
    with pytest.raises((LookupError, ValueError, AttributeError)):
        reading_list.linked(span)


def test_the_page_links_to_pages_that_there_are(reading_list: Any) -> None:
    page = reading_list.page()
    generated = {"reference/methods.md", "reference/optimizers.md", "reference/commands.md"}
    generated |= {"reference/spaces.md", "reference/study-file.md"}
    for target in re.findall(r"\]\(([^)#]+\.md)", page):
        assert target in generated or (DOCS / target).is_file(), target
    assert page.count("\n| ") == 89 + len(reading_list.table())
