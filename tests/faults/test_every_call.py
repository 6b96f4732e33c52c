"""Each fault point strikes at every call, each time in a run of its own: all end the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from evomerge.core import faults
from evomerge.study.study import JOURNAL, Study
from tests.faults.command import SMALL, Command, undisturbed
from tests.models import make_family
from tests.study.small_study import StubWorkers, paid, stub_config, substance
from tests.study.study_driver import Drivers

FEWER = {**SMALL, "evaluate": {"batch_size": 8}}  # calls; still several shards a candidate
SLOW = pytest.mark.slow
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
DRIVER = ["journal.write", "journal.sync", "file.write", "file.sync", "file.rename"]
DRIVER += ["pool.spawn", "pool.submit", "pool.reply", "pool.close"]
WORKER = ["worker.start", "worker.evaluate", "worker.answer"]
MODEL = ["shard.write", "folder.sync", "folder.rename"]
TORN = ["journal.truncate"]
# Real workers alone reach these: tests/study/phases/test_gradients.py, tests/study/test_own_rows.py
REAL = ["worker.gradient", "worker.measure"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the run says that nothing happened to."""
    return undisturbed(tmp_path_factory, FEWER)


def every_call(
    drivers: Drivers, folder: Path, whole: dict[str, Any], point: str, action: str, step: int = 1
) -> int:
    """Let every `step`-th arrival at a point fail, each in a study of its own; how many struck."""
    count, struck = 1, 0
    while True:
        command = Command(drivers, folder / f"{count}", FEWER, seconds=0.0)
        code = command.finish(f"{point}:{count}:{action}")
        if code == 0:
            break
        struck += 1
        assert code == (-9 if action == "kill" else 2), (count, code, command.output)
        assert "Traceback" not in command.output
        assert command.finish() == 0, command.output
        assert substance(command.run) == whole
        assert set(paid(command.run).values()) == {1}
        assert not list(command.run.rglob("*.partial-*"))
        count += step
    return struck


def test_every_fault_point_is_swept_here() -> None:
    assert sorted([*DRIVER, *WORKER, *MODEL, *TORN, *REAL]) == sorted(faults.POINTS)


@pytest.mark.parametrize(
    ("point", "action", "step"),
    [
        pytest.param("journal.write", "kill", 25, marks=SLOW),
        pytest.param("journal.sync", "eio", 30, marks=SLOW),
        ("file.rename", "kill", 3),
    ],
)
def test_a_driver_that_fails_at_some_calls_of_a_point_resumes_to_the_same_end(
    drivers: Drivers, tmp_path: Path, whole: dict[str, Any], point: str, action: str, step: int
) -> None:
    assert every_call(drivers, tmp_path, whole, point, action, step) >= 1


@SLOW
@pytest.mark.parametrize("point", DRIVER)
def test_a_driver_killed_at_every_call_of_a_point_resumes_to_the_same_end(
    drivers: Drivers, tmp_path: Path, whole: dict[str, Any], point: str
) -> None:
    struck = every_call(drivers, tmp_path, whole, point, "kill")
    print(f"{point}: {struck} kills survived")
    assert struck >= (1 if point == "pool.close" else 2)


@SLOW
@pytest.mark.parametrize("action", ["eio", "enospc"])
@pytest.mark.parametrize("point", [p for p in DRIVER if not p.startswith("pool.")])
def test_an_error_at_every_call_that_writes_stops_with_one_line_and_resumes(
    drivers: Drivers, tmp_path: Path, whole: dict[str, Any], point: str, action: str
) -> None:
    struck = every_call(drivers, tmp_path, whole, point, action)
    print(f"{point} {action}: {struck} errors survived")
    assert struck >= (100 if point.startswith("journal.") else 2)


@SLOW
@pytest.mark.parametrize("point", WORKER)
def test_a_worker_killed_at_every_call_of_a_point_changes_nothing(
    stub_workers: StubWorkers,
    tmp_path: Path,
    whole: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    point: str,
) -> None:
    del stub_workers
    struck = 0
    while True:
        run, mark = tmp_path / f"run-{struck}", tmp_path / f"mark-{struck}"
        monkeypatch.setenv("EVOMERGE_FAULT", f"{point}:{struck + 1}:kill:{mark}")
        Study(stub_config(**FEWER), run).confirm()
        assert substance(run) == whole
        assert set(paid(run).values()) == {1}
        if not mark.exists():
            break
        struck += 1
    print(f"{point}: {struck} kills survived")
    assert struck >= (1 if point == "worker.start" else 50)


@SLOW
def test_a_driver_killed_before_it_cuts_a_torn_tail_off_cuts_it_off_next_time(
    drivers: Drivers, tmp_path: Path, whole: dict[str, Any]
) -> None:
    command = Command(drivers, tmp_path / "study", FEWER)
    command.start(torn=[20, 0.5])
    assert drivers.wait() == -9
    torn = (command.run / JOURNAL).read_bytes()
    assert not torn.endswith(b"\n")
    assert command.finish("journal.truncate:1:kill") == -9
    assert (command.run / JOURNAL).read_bytes() == torn
    assert command.finish() == 0, command.output
    assert substance(command.run) == whole


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of two models."""
    home = tmp_path_factory.mktemp("recipe")
    make_family(home)
    models = [{"model": str(home / m), "parameters": {"weight": 0.5}} for m in "ab"]
    file = home / "recipe.yaml"
    file.write_text(json.dumps({"merge_method": "linear", "models": models, "dtype": "float32"}))
    return file


@SLOW
@pytest.mark.parametrize("point", MODEL)
def test_a_build_killed_at_every_call_of_a_point_leaves_no_half_model_and_works_again(
    drivers: Drivers, recipe: Path, tmp_path: Path, point: str
) -> None:
    def build(name: str, fault: str = "") -> int:
        drivers.start(
            arguments=["build", str(recipe), str(tmp_path / name)],
            environment={"EVOMERGE_FAULT": fault},
            log=tmp_path / f"{name}.log",
        )
        return drivers.wait()

    assert build("whole") == 0
    struck = 0
    while build("out", f"{point}:{struck + 1}:kill") != 0:
        struck += 1
        assert not (tmp_path / "out").exists()
    assert struck >= 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out.log", "whole", "whole.log"]
    digests = [(tmp_path / f"{n}.log").read_text().split()[-1] for n in ("whole", "out")]
    assert digests[0] == digests[1]
