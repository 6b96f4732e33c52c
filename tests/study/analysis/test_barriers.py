"""Barriers by hand, and the recipes that are in the middle."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.cli.parents import barrier_lines
from evomerge.evaluate.outcomes import OutcomeRow
from evomerge.study.analysis.barriers import barriers, ends, midpoints
from evomerge.study.config import StudyConfig
from evomerge.study.statistics.outcome import Tasks

TASKS: Tasks = {
    "t": {"metric": "acc", "higher_is_better": True, "weight": 1.0},
    "ppl": {"metric": "word_perplexity", "higher_is_better": False, "weight": 3.0},
}


def rows(t: list[float], ppl: list[float]) -> list[OutcomeRow]:
    return [
        *(OutcomeRow("t", i, value, None, 0, 1) for i, value in enumerate(t)),
        *(OutcomeRow("ppl", i, value, None, 0, 1) for i, value in enumerate(ppl)),
    ]


def test_a_barrier_is_the_fall_below_the_straight_line_with_tasks_weighted_by_hand() -> None:
    # t: ends .5 and 1, line .75, middle .25: .5 below. ppl (less is better): ends -4 and -8, line
    # -6, middle -5: 1 above. Weighted: (.5 - 3 * 1) / 4 = -.625.
    at_ends = {"a": rows([1, 0], [3, 5]), "b": rows([1, 1], [8, 8])}
    at_midpoints = {("a", "b"): rows([0.5, 0], [5, 5])}
    [barrier] = barriers(at_ends, at_midpoints, TASKS, "metric")
    assert barrier["barrier"] == pytest.approx(-0.625)
    assert barrier["middle"] == pytest.approx((0.25 - 3 * 5) / 4)
    assert barrier["low"] < -0.625 < barrier["high"]


def test_barriers_are_told_in_words_the_highest_first() -> None:
    good, bad = [0.9] * 40, [0.1] * 40
    flat = [2.0] * 40
    at_ends = {name: rows(good, flat) for name in "abc"}
    at_midpoints = {
        ("a", "b"): rows(good, flat),
        ("a", "c"): rows(bad, flat),
        ("b", "c"): rows([1.0, 0.8] * 20, flat),
    }
    result = barriers(at_ends, at_midpoints, TASKS, "metric")
    assert (result[0]["a"], result[0]["b"]) == ("a", "c")
    assert result[0]["barrier"] == pytest.approx(0.2)  # .8 lost on a quarter of the weight
    lines = barrier_lines(result, 80)
    assert "80 items" in lines[0]
    assert "a + c: 0.200 below" in lines[1]
    assert "a barrier" in lines[1]
    assert all("no barrier" in line for line in lines[2:])
    assert barrier_lines([], 0) == []


def test_middles_are_averages_of_two_and_the_base_is_one_of_the_ends(tmp_path: Path) -> None:
    study = {"base_model": "base", "models": ["x/a", "y/b"], "space": "global_linear"}
    study["evaluate"] = {"tasks": [{"name": "arc_easy"}]}
    config = StudyConfig.from_dict(study, tmp_path)
    assert [end.name for end in ends(config)] == ["a", "b", "base"]
    result = midpoints(config)
    assert list(result) == [("a", "b"), ("a", "base"), ("b", "base")]
    document = result["a", "base"].to_dict()
    assert document["merge_method"] == "linear"
    assert [entry["parameters"]["weight"] for entry in document["models"]] == [0.5, 0.5]
    assert [Path(entry["model"]).name for entry in document["models"]] == ["a", "base"]
