"""The control arm keeps to its share, and is compared fairly."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from evomerge.core.errors import UserError
from evomerge.recipe.space.dimension import Dimension
from evomerge.report import status_text
from evomerge.study.phases.control import ControlArm, best_of, compare_arms, whole_generations
from evomerge.study.study import Study
from tests.study.small_study import StubWorkers, stub_config

SPACE = [Dimension("x"), Dimension("y", low=-1.0, high=2.0)]


def test_a_share_of_five_per_cent_is_one_random_trial_in_twenty() -> None:
    arm = ControlArm(SPACE, 0, 0.05)
    counts = [len(arm.points(15, 99)) for _ in range(38)]
    assert sum(counts) == 30  # of 30 + 38 x 15 = 600
    assert set(counts) == {0, 1}
    assert not ControlArm(SPACE, 0, 0.0).points(1000, 99)


@pytest.mark.parametrize("trials", [4, 11, 16, 30])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5])
def test_the_trials_of_whole_generations_are_counted_beforehand(
    stub_workers: StubWorkers, tmp_path: Path, trials: int, share: float
) -> None:
    del stub_workers
    search = {"trials": trials, "population": 4, "random_share": share}
    with Study(stub_config(search=search), tmp_path / "run") as study:
        study.optimize()
        asked = sum(len(one.trials) for one in study.record.generations.values())
    assert whole_generations(trials, 4, share) == asked


def test_its_points_are_random_and_follow_from_the_seed() -> None:
    points = ControlArm(SPACE, 3, 0.5).points(200, 999)
    assert points == ControlArm(SPACE, 3, 0.5).points(200, 999)
    assert points != ControlArm(SPACE, 4, 0.5).points(200, 999)
    assert sum(x < 0.5 for x, _ in points) == pytest.approx(100, abs=30)
    assert sum(y < 0.5 for _, y in points) == pytest.approx(100, abs=30)


@pytest.mark.parametrize("k", [1, 2, 5, 7])
def test_best_of_k_is_the_mean_over_all_draws(k: int) -> None:
    values = [0.3, -1.0, 2.5, 2.5, 0.0, 7.0, 1.0]
    draws = list(combinations(values, k))
    assert best_of(values, k) == pytest.approx(sum(map(max, draws)) / len(draws))


def test_a_study_interleaves_it_and_shows_it_and_the_optimizer_is_not_told(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers()
    search = {"trials": 40, "random_share": 0.2}
    study = Study(stub_config(search=search), tmp_path / "run")
    study.optimize()
    record = study.record
    kinds = [[record.trials[n].kind for n in g.trials] for g in record.generations.values()]
    assert kinds == [["trial"] * 4 + ["random"]] * 8
    arms = compare_arms(record)
    assert arms is not None
    assert arms["trials"] == 8
    assert "random   8 trials, best gain" in status_text(record)
    alone = Study(stub_config(search={"trials": 32, "random_share": 0.0}), tmp_path / "alone")
    alone.optimize()
    points = [t.point for t in record.trials.values() if t.kind == "trial"]
    assert points == [t.point for t in alone.record.trials.values() if t.kind == "trial"]
    assert compare_arms(alone.record) is None


def test_more_than_half_at_random_is_refused() -> None:
    with pytest.raises(UserError, match=r"search\.random_share: expected a share from 0 to 0\.5"):
        stub_config(search={"random_share": 0.7})


def test_it_takes_no_generation_from_the_optimizer_at_the_end_and_a_longer_search_goes_on(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers()
    search = {"trials": 8, "random_share": 0.12}  # one random trial is due with the second four
    study = Study(stub_config(search=search), tmp_path / "run")
    study.optimize()
    assert [len(g.trials) for g in study.record.generations.values()] == [4, 4]
    study.optimize(17)
    record = study.record
    kinds = [[record.trials[n].kind for n in g.trials] for g in record.generations.values()]
    assert kinds == [["trial"] * 4, ["trial"] * 4, ["trial"] * 4 + ["random"], ["trial"] * 4]
