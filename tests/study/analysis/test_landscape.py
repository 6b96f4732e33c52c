"""What is scored around a winner: where the points lie, what they score, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from evomerge.core.errors import UserError
from evomerge.recipe.space.dimension import Dimension
from evomerge.report.landscape import landscape_lines
from evomerge.study.analysis.cuts import interpolated, values
from evomerge.study.analysis.landscape import landscape
from evomerge.study.journal.journal import JOURNAL
from evomerge.study.study import Study
from tests.study.small_study import StubWorkers, events, paid, stub_config
from tests.study.stub_worker import quality

LAST = "models[one].weight[1]"
FIRST = "models[two].weight[0]"


@pytest.fixture
def run(stub_workers: StubWorkers, tmp_path: Path) -> Path:
    """A finished study of stub workers."""
    del stub_workers
    folder = tmp_path / "run"
    Study(stub_config(workers={"backend": "local", "count": 2}), folder).confirm()
    return folder


def test_line_slice_and_parts_score_what_the_recipes_are_worth(run: Path) -> None:
    journal = (run / JOURNAL).read_bytes()
    result = landscape(run, 5, [LAST, FIRST])
    assert (run / JOURNAL).read_bytes() == journal
    asked = events(run / "explain", "asked")[0]["trials"]
    worth = [quality(trial["recipe"]) for trial in asked]  # the winner's first
    points = [trial["point"] for trial in asked]

    assert [at["position"] for at in result["line"]] == [0, 1 / 3, 2 / 3, 1, 4 / 3]
    winner, start = points[0], points[1]
    assert points[2] == pytest.approx([a + (b - a) / 3 for a, b in zip(start, winner, strict=True)])
    for at, value in zip(result["line"], [worth[1], worth[2], worth[3], worth[0]], strict=False):
        assert at["gain"] == pytest.approx(value - worth[0], abs=0.02)
        assert at["low"] <= at["gain"] <= at["high"]
    assert result["line"][3]["gain"] == 0

    cut = result["slice"]
    assert cut["dimensions"] == [LAST, FIRST]
    assert winner[1] in cut["values"][0]
    assert winner[2] in cut["values"][1]
    best = result["line"][3]["score"]
    for i, last in enumerate(cut["values"][0]):
        for j, first in enumerate(cut["values"][1]):
            at = points.index([winner[0], last, first, winner[3]])
            gain = worth[at] - worth[0]
            assert cut["scores"][i][j] - best == pytest.approx(gain, abs=0.02)

    assert [at["part"] for at in result["parts"]] == ["knot 0", "model one", "knot 1", "model two"]
    back = points.index([start[0], winner[1], start[2], winner[3]])
    assert result["parts"][0]["gain"] == pytest.approx(worth[back] - worth[0], abs=0.02)
    assert "through the winner (1)" in "\n".join(landscape_lines(result))


def test_nothing_is_paid_for_twice(run: Path) -> None:
    first = landscape(run, 3)
    before = paid(run / "explain")
    assert landscape(run, 3) == first
    assert paid(run / "explain") == before
    assert set(before.values()) == {1}


def test_other_parents_or_tasks_and_unfinished_runs_are_refused(
    run: Path, stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers(fingerprint="changed")
    with pytest.raises(UserError, match="a parent's weights changed since this study began"):
        landscape(run, 3)
    stub_workers(protocol="changed")
    with pytest.raises(UserError, match="the tasks changed since this study began"):
        landscape(run, 3)
    stub_workers()
    other = tmp_path / "other"
    Study(stub_config(workers={"backend": "local"}, search={"seed": 2}), other).optimize(4)
    with pytest.raises(UserError, match="to a verdict"):
        landscape(other, 3)
    Study(stub_config(workers={"backend": "local"}, search={"seed": 2}), other).confirm()
    shutil.copytree(run / "explain", other / "explain")
    with pytest.raises(UserError, match="made of another run"):
        landscape(other, 3)


def test_a_recipe_that_fails_leaves_a_hole(run: Path, stub_workers: StubWorkers) -> None:
    whole = landscape(run, 3, [FIRST])["slice"]["scores"]
    assert None not in whole[0]
    winner = events(run / "explain", "asked")[0]["trials"][0]["point"]
    shutil.rmtree(run / "explain")
    stub_workers(fail="merge", fail_above=winner[0] + 1e-6)
    result = landscape(run, 3, ["models[one].weight[0]"])
    assert result["slice"]["scores"][0][-1] is None
    assert "failed" in "\n".join(landscape_lines(result))


def test_steps_between_values_by_hand() -> None:
    log = Dimension("a", low=0.01, high=1.0, log=True)
    whole = Dimension("b", "int", low=1, high=4)
    choice = Dimension("c", "categorical", choices=("x", "y"))
    assert interpolated(log, 0.01, 1.0, 0.5) == pytest.approx(0.1)
    assert interpolated(log, 0.1, 1.0, 1.5) == 1.0  # kept within its range
    assert interpolated(whole, 1, 4, 0.5) == 2
    assert [interpolated(choice, "x", "y", position) for position in (0, 0.4, 0.6, 1.5)] == [
        *"xxyy"
    ]
    assert values(whole, 3, 7) == [1, 2, 3, 4]
    assert values(Dimension("d", low=0.0, high=1.0), 0.6, 3) == [0.0, 0.6, 1.0]
