"""kill -9 at any moment: nothing finished is lost or paid for twice, and the search is the same."""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from evomerge.study.config import StudyConfig
from evomerge.study.study import JOURNAL
from tests.study.small_study import events, paid, stub_config, stub_executable, substance
from tests.study.stub_worker import name_of
from tests.study.study_driver import Drivers, children, is_running, kill, kill_group

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")


class Killed:
    """One run folder, whose study is killed and begun again."""

    def __init__(self, drivers: Drivers, config: StudyConfig, folder: Path, stub: bool = True):
        self.drivers, self.config, self.folder = drivers, config, folder
        self.run = folder / "run"
        self.starts = 0
        folder.mkdir()
        self._executable = stub_executable(folder) if stub else None

    def start(self, workers: int | None = None, **more: Any) -> int:
        """Begin, or go on; returns the driver's process."""
        self.starts += 1
        config = self.config.to_dict()
        config["workers"]["count"] = workers or config["workers"]["count"]
        settings = {"log": self.evaluations, "seconds": 0.002}
        return self.drivers.start(
            config=config,
            directory=self.run,
            executable=self._executable,
            environment={"STUB_WORKER": json.dumps(settings, default=str)},
            log=self.folder / "output",
            **more,
        )

    def wait_for_outcomes(self, count: int, driver: int) -> None:
        """Wait until so many more outcomes are on the disk, or the driver has ended."""
        wanted = self.lines() + count
        deadline = time.monotonic() + 600
        while self.lines() < wanted and is_running(driver):
            assert time.monotonic() < deadline, "nothing was finished for ten minutes"
            time.sleep(0.001)

    def lines(self) -> int:
        """Events on the disk."""
        journal = self.run / JOURNAL
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    @property
    def evaluations(self) -> Path:
        """Folder where the stub workers of the present run note what they begin."""
        return self.folder / f"evaluations-{self.starts}"

    def outcomes(self) -> set[tuple[str, str, str, int]]:
        """(recipe, mode, task, item) of everything that the journal holds."""
        if not self.lines():
            return set()
        names = {
            t["digest"]: name_of(t["recipe"])
            for e in events(self.run, "asked")
            for t in e["trials"]
        }
        return {
            (names[event["digest"]], event["mode"], row[0], row[1])
            for event in events(self.run, "outcomes")
            for row in event["rows"]
        }

    def begun(self) -> set[tuple[str, str, str, int]]:
        """The same of everything that the stub workers of this run have begun."""
        # What stands behind the last line break was cut short by a kill, before anything was begun.
        lines = (
            json.loads(line)
            for file in self.evaluations.glob("*")
            for line in file.read_text().split("\n")[:-1]
        )
        return {
            (name, mode, task, i)
            for name, mode, items in lines
            for task, ids in items.items()
            for i in ids
        }


@pytest.fixture(scope="module")
def uninterrupted(drivers: Drivers, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    study = Killed(drivers, stub_config(), tmp_path_factory.mktemp("whole") / "study")
    study.start()
    assert drivers.wait() == 0, (study.folder / "output").read_text()
    assert study.begun() == study.outcomes() != set()
    return study


def test_kill_9_at_30_random_moments_loses_nothing_and_changes_nothing(
    drivers: Drivers, uninterrupted: Killed, tmp_path: Path
) -> None:
    draw = random.Random(20_240_319)
    expected = substance(uninterrupted.run)
    kills = finished = 0
    ways = ["driver", "everything", "worker", "write"]
    while kills < 30 or finished < 2:
        study = Killed(drivers, uninterrupted.config, tmp_path / f"study-{finished}")
        code = -9
        while code:
            assert kills < 60, "it does not get on"
            before, way = study.outcomes(), ways[kills % len(ways)]
            if kills >= 30:
                study.start()
                code = drivers.wait()
                assert code == 0, (study.folder / "output").read_text()
            elif way == "write":
                study.start(torn=[draw.randint(2, 24), draw.random()])
                code = drivers.wait()
            else:
                driver = study.start()
                study.wait_for_outcomes(draw.randint(1, 20), driver)
                time.sleep(draw.uniform(0, 0.005))
                if way == "worker":
                    for worker in children(driver)[: draw.randint(1, 2)]:
                        kill(worker)
                    study.wait_for_outcomes(draw.randint(1, 10), driver)
                (kill_group if way == "everything" else kill)(driver)
                code = drivers.wait()
            assert code in (0, -9), (study.folder / "output").read_text()
            kills += code == -9
            assert not before & study.begun(), "what was finished is paid for again"
            assert before <= study.outcomes(), "what was finished is lost"
        finished += 1
        assert substance(study.run) == expected
        assert set(paid(study.run).values()) == {1}


def test_death_while_writing_again_and_again_loses_nothing_and_changes_nothing(
    drivers: Drivers, tmp_path: Path
) -> None:
    config = stub_config(models=["one"], search={"trials": 8}, workers={"count": 1})
    whole = Killed(drivers, config, tmp_path / "whole")
    whole.start()
    assert drivers.wait() == 0
    study = Killed(drivers, config, tmp_path / "study")
    code, draw = -9, random.Random(5)
    while code == -9:
        assert study.starts < 100, "it does not get on"
        # The first event of a run only says that the journal was opened.
        study.start(torn=[draw.randint(3, 12), draw.random()])
        code = drivers.wait()
    assert code == 0, (study.folder / "output").read_text()
    assert study.starts > 8
    assert substance(study.run) == substance(whole.run)
    assert set(paid(study.run).values()) == {1}


def test_workers_do_not_outlive_a_killed_driver(drivers: Drivers, tmp_path: Path) -> None:
    study = Killed(drivers, stub_config(), tmp_path / "study")
    driver = study.start()
    study.wait_for_outcomes(5, driver)
    workers = children(driver)
    assert len(workers) == 2
    kill(driver)
    drivers.wait()
    deadline = time.monotonic() + 10
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_real_workers_and_driver_killed_the_winner_is_the_same(
    drivers: Drivers, finished: Path, small_study: Path, tmp_path: Path
) -> None:
    study = Killed(drivers, StudyConfig.from_yaml(small_study), tmp_path / "study", stub=False)
    driver = study.start(workers=2)
    study.wait_for_outcomes(30, driver)
    kill(children(driver)[0])
    study.wait_for_outcomes(25, driver)
    kill(driver)
    assert drivers.wait() == -9
    study.start(workers=1)
    assert drivers.wait() == 0, (study.folder / "output").read_text()
    assert substance(study.run) == substance(finished)
    assert set(paid(study.run).values()) == {1}


def kill_again_and_again(
    drivers: Drivers, config: StudyConfig, expected: dict[str, Any], folder: Path, kills: int
) -> None:
    """Kill real studies so many times, let each end in its own time, and compare with `expected`.

    A gradient is finished with its outcomes: paid for once, and in the journal like them.
    """
    draw = random.Random(11)
    killed = done = 0
    while killed < kills:
        study = Killed(drivers, config, folder / f"study-{done}", stub=False)
        code = -9
        while code:
            assert code == -9, (study.folder / "output").read_text()
            before, steps = study.outcomes(), gradients(study)
            driver = study.start(workers=draw.randint(1, 2))
            if killed < kills:
                study.wait_for_outcomes(draw.randint(1, 25), driver)
                time.sleep(draw.uniform(0, 0.05))
                if killed % 3 == 2:
                    for worker in children(driver):
                        kill(worker)
                    study.wait_for_outcomes(draw.randint(1, 10), driver)
                (kill_group if killed % 3 else kill)(driver)
                killed += 1
            code = drivers.wait()
            assert before <= study.outcomes(), "what was finished is lost"
            assert steps == gradients(study)[: len(steps)], "a gradient that was finished is lost"
        done += 1
        assert substance(study.run) == expected
        assert set(paid(study.run).values()) == {1}


def gradients(study: Killed) -> list[Any]:
    """Every gradient in the journal, in the order in which they were finished."""
    if not study.lines():
        return []
    return [e["gradient"] for e in events(study.run, "outcomes") if e.get("gradient") is not None]


@pytest.mark.slow
def test_kill_9_at_30_random_moments_of_real_studies_changes_nothing(
    drivers: Drivers, finished: Path, small_study: Path, tmp_path: Path
) -> None:
    config = StudyConfig.from_yaml(small_study)
    kill_again_and_again(drivers, config, substance(finished), tmp_path, kills=30)


@pytest.mark.slow
def test_kill_9_at_20_random_moments_of_searches_along_gradients_changes_nothing(
    drivers: Drivers, small_study: Path, tmp_path: Path
) -> None:
    document = json.loads(small_study.read_text())
    search = {"optimizer": "adam", "trials": 12, "seed": 3}
    document |= {"space": "task_arithmetic_by_tensor", "search": search}
    config = StudyConfig.from_dict(document, small_study.parent)
    whole = Killed(drivers, config, tmp_path / "whole", stub=False)
    whole.start(workers=1)
    assert drivers.wait() == 0, (whole.folder / "output").read_text()
    assert len(gradients(whole)) >= 12
    kill_again_and_again(drivers, config, substance(whole.run), tmp_path, kills=20)
