"""The driver is stopped, killed or fails at any point: the same command resumes to the same end."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from evomerge.core.errors import UserError
from evomerge.study.config import StudyConfig
from evomerge.study.journal.codec import parse_all
from evomerge.study.journal.record import Record
from evomerge.study.study import JOURNAL, Study
from tests.faults.command import SMALL, Command, undisturbed
from tests.study.small_study import StubWorkers, events, paid, stub_config, substance
from tests.study.study_driver import Drivers, children, is_running

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the run says that nothing happened to."""
    return undisturbed(tmp_path_factory, SMALL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_stops_and_says_how_to_go_on(
    drivers: Drivers, tmp_path: Path, whole: dict[str, Any], number: signal.Signals
) -> None:
    command = Command(drivers, tmp_path / "study", seconds=0.2)
    driver = command.start()
    command.wait_for_events(6)
    workers = children(driver)
    os.kill(driver, number)
    assert drivers.wait() == 130
    assert f"To resume: evomerge search {command.folder / 'study.yaml'}" in command.output
    assert not any(map(is_running, workers))
    command.settings["seconds"] = 0.0
    assert command.finish() == 0
    assert substance(command.run) == whole


def test_one_request_that_arrives_as_two_signals_still_stops_in_good_order(
    drivers: Drivers, tmp_path: Path, whole: dict[str, Any]
) -> None:
    command = Command(drivers, tmp_path / "study", seconds=0.2)
    driver = command.start()
    command.wait_for_events(6)
    for _ in range(2):  # as coreutils' timeout does: to the child, and to its group
        os.kill(driver, signal.SIGTERM)
        time.sleep(0.02)
    assert drivers.wait() == 130
    assert "left at once" not in command.output
    assert f"To resume: evomerge search {command.folder / 'study.yaml'}" in command.output
    command.settings["seconds"] = 0.0
    assert command.finish() == 0
    assert substance(command.run) == whole


def test_a_second_signal_ends_at_once_and_the_run_still_resumes(
    drivers: Drivers, tmp_path: Path, whole: dict[str, Any]
) -> None:
    command = Command(drivers, tmp_path / "study", seconds=0.05)
    driver = command.start("pool.close:1:hang")  # the first signal is answered for ever
    command.wait_for_events(6)
    workers = children(driver)
    os.kill(driver, signal.SIGINT)
    while is_running(driver):  # two signals within a moment are one request
        os.kill(driver, signal.SIGINT)
        time.sleep(0.05)
    assert drivers.wait() == 130
    assert "left at once; the same command resumes" in command.output
    deadline = time.monotonic() + 5
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert command.finish() == 0
    assert substance(command.run) == whole


def test_a_full_disk_stops_with_one_line_and_the_run_resumes_when_there_is_space(
    drivers: Drivers, tmp_path: Path, whole: dict[str, Any]
) -> None:
    command = Command(drivers, tmp_path / "study", seconds=0.02)
    driver = command.start()
    command.wait_for_events(3)
    size = (command.run / JOURNAL).stat().st_size
    resource.prlimit(driver, resource.RLIMIT_FSIZE, (size + 3000, size + 3000))
    assert drivers.wait() == 2
    assert "disk full while writing" in command.output
    assert "run the same command again to resume" in command.output
    assert "Traceback" not in command.output
    assert (command.run / JOURNAL).read_bytes().endswith(b"\n")
    assert command.finish() == 0
    assert substance(command.run) == whole


def test_a_stopped_driver_keeps_its_run_and_a_second_one_is_told_who_it_is(
    drivers: Drivers, tmp_path: Path, whole: dict[str, Any]
) -> None:
    command = Command(drivers, tmp_path / "study", seconds=0.05)
    driver = command.start()
    command.wait_for_events(5)
    os.kill(driver, signal.SIGSTOP)
    content = (command.run / JOURNAL).read_bytes()
    with pytest.raises(UserError, match=rf"in use by process {driver} on .* since 20"):
        Study(stub_config(**SMALL), command.run).confirm()
    assert (command.run / JOURNAL).read_bytes() == content
    os.kill(driver, signal.SIGCONT)
    assert drivers.wait() == 0
    assert substance(command.run) == whole


def test_clocks_that_jump_by_a_day_change_nothing(
    stub_workers: StubWorkers,
    tmp_path: Path,
    whole: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del stub_workers
    real, calls = time.time, [0]

    def jumping() -> float:
        calls[0] += 1
        return real() + 86400.0 * (-1) ** calls[0] + 3600.0 * (calls[0] % 3)

    monkeypatch.setattr(time, "time", jumping)
    Study(stub_config(**SMALL), tmp_path / "run").confirm()
    assert calls[0] > 20
    assert substance(tmp_path / "run") == whole


def test_a_changed_study_is_refused_with_every_difference_or_goes_on_and_is_recorded(
    stub_workers: StubWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del stub_workers
    run = tmp_path / "run"
    Study(stub_config(**SMALL), run).optimize(4)
    other = stub_config(**SMALL, output={"dtype": "float32"}, evaluate={"num_fewshot": 2})
    with pytest.raises(UserError, match=r"output\.dtype was .*--allow-changed") as refused:
        Study(other, run).optimize(4)
    assert "study.evaluate.num_fewshot was None, now 2" in str(refused.value)
    shots = stub_config(**SMALL, evaluate={"num_fewshot": 2})
    Study(shots, run, allow_changed=True).optimize(4)
    (changed,) = events(run, "changed")
    assert changed["differences"] == ["study.evaluate.num_fewshot was None, now 2"]
    Study(shots, run).optimize(4)  # the run is one of the changed study from now on
    with pytest.raises(UserError, match=r"search\.seed"):
        Study(stub_config(**SMALL, evaluate={"num_fewshot": 2}) and _seeded(), run).optimize(4)
    with pytest.raises(UserError, match="is not the recipe in the journal"):
        Study(_seeded(), run, allow_changed=True).optimize(8)
    monkeypatch.setattr("evomerge.study.phases.check.versions", lambda: {"code": "other"})
    with pytest.raises(UserError, match=r"began with other versions: .*code \w+ -> other.*--allow"):
        Study(_allowed(run), run).optimize(8)


def _seeded() -> Any:
    return stub_config(models=["one"], search={"trials": 8, "seed": 9}, evaluate={"num_fewshot": 2})


def _allowed(run: Path) -> Any:
    from evomerge.study.config import StudyConfig

    study = Record.from_events(parse_all(events(run))).study
    assert study is not None
    return StudyConfig.from_dict(study.config, Path("/"))


def test_a_key_that_an_earlier_version_did_not_know_is_no_change(
    stub_workers: StubWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del stub_workers
    whole = StudyConfig.to_dict
    with monkeypatch.context() as earlier:
        known = {"base_model", "models", "space", "evaluate", "search", "workers", "output"}
        earlier.setattr(
            StudyConfig, "to_dict", lambda self: {k: whole(self)[k] for k in sorted(known)}
        )
        Study(stub_config(), tmp_path / "run").optimize(4)
    assert whole(stub_config()).keys() - known >= {"trust_remote_code", "calibration", "methods"}
    Study(stub_config(), tmp_path / "run").optimize(8)
    with pytest.raises(UserError, match="trust_remote_code was None, now 000"):
        Study(stub_config(trust_remote_code="0" * 64), tmp_path / "run").optimize(8)


def test_a_space_of_a_few_points_ends_and_equal_recipes_are_paid_for_once(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers(signal=0.0, salt="constant")
    space: Mapping[str, Any] = {
        "merge_method": "linear",
        "models": [{"model": "*", "parameters": {"weight": {"choice": [0.5, 1.0]}}}],
    }
    config = stub_config(space=space, search={"trials": 40})
    Study(config, tmp_path / "run").confirm()
    digests = [
        t["digest"]
        for e in events(tmp_path / "run", "asked")
        for t in e["trials"]
        if t["kind"] == "trial"
    ]
    assert len(set(digests)) <= 4
    assert set(paid(tmp_path / "run").values()) == {1}
    assert events(tmp_path / "run", "search_ended")
