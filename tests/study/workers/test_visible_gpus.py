"""Local workers take turns with the GPUs that are visible."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.study.workers.local import LocalPool
from evomerge.study.workers.requests import Describe
from tests.study.small_study import StubWorkers, stub_config
from tests.study.workers.test_workers import description, gather, local


def test_children_take_turns_with_the_visible_gpus(
    stub_workers: StubWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del stub_workers
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    with local(tmp_path, 3) as pool:
        for worker in range(3):
            pool.submit(worker, Describe())
        devices = {n: description(reply).device for n, reply in gather(pool, 3).items()}
    assert devices == {0: "4", 1: "6", 2: "4"}


def test_children_take_turns_with_all_gpus_where_none_are_listed(
    stub_workers: StubWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del stub_workers
    program = tmp_path / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\n[ "$*" = "--query-gpu=uuid --format=csv,noheader" ] || exit 9\n'
        "echo GPU-11aa\necho GPU-22bb\n"
    )
    program.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with local(tmp_path, 3) as pool:
        assert [pool.device(worker) for worker in range(3)] == ["GPU-11aa", "GPU-22bb", "GPU-11aa"]
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    with local(tmp_path, 1) as pool:
        assert pool.device(0) == "worker 0"


def test_children_on_the_cpu_or_on_one_named_gpu_are_given_none(
    stub_workers: StubWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del stub_workers
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    for name in ("cpu", "cuda:1"):
        with LocalPool(stub_config(workers={"device": name}), tmp_path / "workers.log") as pool:
            assert pool.device(0) == "worker 0"


def test_children_of_several_gpus_take_as_many_in_turn(
    stub_workers: StubWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del stub_workers
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,4,6")
    config = stub_config(workers={"count": 2, "gpus": 2})
    with LocalPool(config, tmp_path / "workers.log") as pool:
        assert [pool.device(worker) for worker in range(2)] == ["0,1", "4,6"]
