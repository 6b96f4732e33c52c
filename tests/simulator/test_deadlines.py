"""A study with a deadline has its verdict by then, and searches for nearly as long as it can."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from evomerge.study import study as study_module
from evomerge.study.study import Study
from evomerge.study.workers.requests import Evaluate, Request
from tests.simulator import cluster
from tests.study.small_study import stub_config


class Priced(cluster.SimulatedPool):
    """The metric costs several times the smooth score; an item takes an eighth of a second."""

    metric_price = 4.0

    def submit(self, worker: int, request: Request) -> None:
        seconds = 2.0
        if isinstance(request, Evaluate):
            items = sum(len(ids) for shard in request.shards for ids in shard.values())
            price = self.metric_price if request.mode == "metric" else 1.0
            seconds = price * items / 8 * self._weather._draw.lognormvariate(0.0, 0.5)
        self._weather.seconds = lambda: seconds  # type: ignore[method-assign]
        super().submit(worker, request)


@pytest.mark.parametrize(
    ("workers", "deadline"),
    [
        (4, 200),
        pytest.param(16, 100, marks=pytest.mark.slow),
        pytest.param(4, 1000, marks=pytest.mark.slow),
        pytest.param(1, 2000, marks=pytest.mark.slow),
    ],
)
def test_the_verdict_comes_within_a_tenth_before_the_deadline_and_not_after_it(
    workers: int, deadline: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = stub_config(
        search={"population": 8, "trials": 100_000, "deadline": f"{deadline}s"},
        workers={"count": workers},
    )
    weather, clock = cluster.calm(), cluster.Clock()
    weather._draw = random.Random(0)
    cluster.simulate(monkeypatch, clock)
    monkeypatch.setattr(study_module, "open_pool", lambda config, _: Priced(config, weather, clock))
    Study(config, tmp_path / "run").confirm(progress=False)
    # Up to a generation is left over, and what race and verdict took less than they might have.
    assert 0.88 * deadline < clock.now < 1.05 * deadline
