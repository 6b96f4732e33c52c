"""Workers die, hang, run out of memory or lose their device: the study's results are the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evomerge.core.errors import UserError
from evomerge.study.study import Study
from evomerge.study.workers import scheduler
from evomerge.study.workers.failures import kind_of
from tests.study.small_study import StubWorkers, events, paid, stub_config, substance

SLOW = [pytest.mark.slow]
SMALL = {"models": ["one"], "search": {"trials": 8}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happened to."""
    run = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        StubWorkers(patch, tmp_path_factory.mktemp("stub"))
        Study(stub_config(**SMALL), run).confirm()
    return run


def arm(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Faults of workers alone: this process read the variable long ago."""
    monkeypatch.setenv("EVOMERGE_FAULT", text)


@pytest.mark.parametrize(
    ("point", "action"),
    [
        pytest.param(
            point,
            action,
            marks=[] if point == "worker.evaluate" and action in ("bus", "oom") else SLOW,
        )
        for point in ("worker.start", "worker.evaluate", "worker.answer")
        for action in ("kill", "segv", "bus", "exit", "oom")
    ],
)
def test_a_worker_that_dies_or_runs_out_of_memory_anywhere_changes_nothing(
    stub_workers: StubWorkers,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
    action: str,
) -> None:
    del stub_workers
    mark, count = tmp_path / "struck", 1 if point == "worker.start" else 3
    arm(monkeypatch, f"{point}:{count}:{action}:{mark}")
    Study(stub_config(**SMALL), tmp_path / "run").confirm()
    assert mark.exists()
    assert substance(tmp_path / "run") == substance(whole)
    assert set(paid(tmp_path / "run").values()) == {1}


def test_after_running_out_of_memory_batches_are_halved_and_stay_so_when_resumed(
    stub_workers: StubWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm(monkeypatch, f"worker.evaluate:3:oom:{tmp_path / 'struck'}")
    stub_workers()
    study = Study(stub_config(**SMALL), tmp_path / "run")
    study.optimize(4)
    halved = [e for e in events(tmp_path / "run", "outcomes") if e.get("halvings") == 1]
    assert halved
    assert study.record.halvings == 1
    monkeypatch.delenv("EVOMERGE_FAULT")
    before = len(events(tmp_path / "run", "outcomes"))
    Study(stub_config(**SMALL), tmp_path / "run").optimize()
    later = events(tmp_path / "run", "outcomes")[before:]
    assert later
    assert all(event["halvings"] == 1 for event in later)


def test_a_recipe_that_never_fits_fails_as_out_of_memory_after_three_attempts(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers(fail="oom", fail_above=0.3)
    Study(stub_config(**SMALL), tmp_path / "run").confirm()
    failed = events(tmp_path / "run", "failed")
    assert failed
    assert {event["kind"] for event in failed} == {"oom"}


def test_a_broken_device_is_used_no_more_and_what_it_scored_is_scored_again(
    stub_workers: StubWorkers, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    stub_workers(broken_device="0", seconds=0.002)
    Study(stub_config(**SMALL), tmp_path / "run").confirm()
    deliveries = events(tmp_path / "run", "outcomes")
    again = [event for event in deliveries if event.get("rescored")]
    assert again
    assert {event["worker"] for event in again} == {"1"}
    last = max(i for i, event in enumerate(deliveries) if event["worker"] == "0")
    assert {event["worker"] for event in deliveries[last + 1 :]} == {"1"}
    expected, got = substance(whole), substance(tmp_path / "run")
    for run in (expected, got):
        run["study"][0].pop("device")
    assert got == expected


def test_a_study_whose_every_device_is_broken_stops_and_says_what_it_said(
    stub_workers: StubWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    stub_workers(broken_device="3")
    config = stub_config(**SMALL, workers={"count": 1})
    with pytest.raises(UserError, match=r"every device failed.*CUDA error: ECC.*to resume"):
        Study(config, tmp_path / "run").confirm()


def test_a_worker_that_hangs_is_killed_and_its_work_is_done_by_another(
    stub_workers: StubWorkers, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del stub_workers
    monkeypatch.setattr(scheduler, "LEAST_SECONDS", 0.5)
    mark = tmp_path / "struck"
    arm(monkeypatch, f"worker.evaluate:6:hang:{mark}")
    Study(stub_config(**SMALL), tmp_path / "run").confirm()
    assert mark.exists()
    assert substance(tmp_path / "run") == substance(whole)


def test_a_study_whose_every_trial_fails_stops_with_the_cause(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers(fail="task")
    with pytest.raises(UserError, match=r"three generations failed; .*the stub was told to fail"):
        Study(stub_config(search={"trials": 40}), tmp_path / "run").confirm()


def test_a_task_that_raises_fails_its_trials_alone(
    stub_workers: StubWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del stub_workers
    arm(monkeypatch, f"worker.evaluate:30:error:{tmp_path / 'struck'}")
    Study(stub_config(), tmp_path / "run").confirm()
    failed = events(tmp_path / "run", "failed")
    assert [event["kind"] for event in failed] == ["task"]
    assert "a fault was injected here" in failed[0]["message"]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", "oom"),
        ("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried", "oom"),
        ("std::bad_alloc", "oom"),
        ("CUDA error: device-side assert triggered", "device"),
        ("CUDA error: an illegal memory access was encountered", "device"),
        ("CUDA error: uncorrectable ECC error encountered", "device"),
        ("GPU has fallen off the bus", "device"),
        ("cuBLAS: CUBLAS_STATUS_EXECUTION_FAILED", "device"),
        ("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate", "oom"),
        ("list index out of range", "task"),
    ],
)
def test_errors_of_libraries_are_classified(said: str, kind: str) -> None:
    assert kind_of(RuntimeError(said)) == kind
    assert kind_of(MemoryError()) == "oom"


@pytest.mark.slow
def test_a_real_worker_under_a_memory_limit_is_out_of_memory_and_not_a_fault() -> None:
    code = (
        "import resource, torch\n"
        "from pathlib import Path\n"
        "from evomerge.study.workers.failures import kind_of\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))\n"
        "try:\n    torch.empty(2**32)\n"
        "except BaseException as error:\n    print(kind_of(error))\n"
        "try:\n    bytearray(2**34)\n"
        "except BaseException as error:\n    print(kind_of(error))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.stdout.split() == ["oom", "oom"], result.stderr


def test_a_worker_of_other_versions_is_refused(tmp_path: Path) -> None:
    from evomerge.study.versions import versions
    from evomerge.study.workers.requests import Failure
    from evomerge.study.workers.start import start

    config = json.loads(json.dumps(stub_config().to_dict()))
    other = {**versions(), "torch": "1.0", "code": "0"}
    answer = start({**config, "versions": other})
    assert isinstance(answer, Failure)
    assert answer.kind == "study"
    assert "runs other versions than the driver" in answer.message
    assert "torch 1.0 -> " in answer.message
    del tmp_path
