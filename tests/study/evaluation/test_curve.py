"""A run's checkpoints and the averages up to them, scored."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from evomerge.core.errors import UserError
from evomerge.merge.build import build
from evomerge.recipe.average import cumulative, last
from evomerge.recipe.recipe import Recipe
from evomerge.study.evaluation import evaluation as module
from evomerge.study.evaluation.curve import curve
from evomerge.study.evaluation.entrants import entrants
from evomerge.study.evaluation.evaluation import ALL, evaluate
from tests.study.small_study import InProcessPool, real_study


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "open_pool", InProcessPool)


def test_every_checkpoint_is_scored_beside_the_average_up_to_it(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    home = real_study(tmp_path_factory.getbasetemp() / "real-study").parent
    settings = {
        "evaluate": {
            "tasks": ["small_choice", "small_write"],
            "include_path": [str(home / "tasks")],
        },
        "workers": {"device": "cpu"},
    }
    run = [str(home / "zoo" / name) for name in ("base", "one", "two")]
    points = curve(run, cumulative, settings, tmp_path / "store")
    assert [point.checkpoint for point in points] == run
    assert points[0].average == points[0].alone  # one checkpoint's average is itself

    written = str(tmp_path / "average")
    build(cumulative(run), Path(written))
    apart = evaluate(entrants([*run, written], settings, home), tmp_path / "other-store")
    *alone, average = [model.scores[ALL] for model in apart.models]
    assert [point.alone for point in points] == alone
    assert points[-1].average == average

    lawa = curve(run, partial(last, k=2), settings, tmp_path / "store")
    assert [point.average is None for point in lawa] == [True, False, False]
    assert lawa[1].average == points[1].average  # of two checkpoints both are the mean

    def none(_: Sequence[str | Path]) -> Recipe:
        raise UserError("too few")

    with pytest.raises(UserError, match="too few"):
        curve(run, none, settings, tmp_path / "store")
