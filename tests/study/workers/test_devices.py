"""A worker that asks for a GPU never runs on the CPU instead."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.checkpoint.opening import open_model
from evomerge.core.errors import UserError
from evomerge.study.config import StudyConfig, WorkersConfig
from evomerge.study.workers import devices as devices_module
from evomerge.study.workers.devices import devices, keeps_parents, memo_budget


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        (WorkersConfig(gpus=1.0), r"workers\.gpus: each worker is to have 1 GPU, but .* sees 0"),
        (
            WorkersConfig(gpus=0.5),
            r"workers\.gpus: each worker is to have 0\.5 GPUs, but .* sees 0",
        ),
        (WorkersConfig(device="cuda"), r"workers\.device: cuda: torch .* sees no GPU"),
        (WorkersConfig(device="cuda:1"), r"workers\.device: cuda:1: torch .* sees no GPU"),
    ],
)
def test_without_a_gpu_a_worker_that_wants_one_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, workers: WorkersConfig, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=message) as caught:
        devices(workers)
    assert "device: cpu" in str(caught.value)  # the remedy
    assert "\n" not in str(caught.value)


def test_without_a_wish_for_a_gpu_the_cpu_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert devices(WorkersConfig()) == ["cpu"]
    assert devices(WorkersConfig(device="cpu", gpus=1.0)) == ["cpu"]


@pytest.mark.parametrize(
    ("memory", "workers", "stay"),
    [
        (5.4, {}, True),  # base, two parents and the live model are 4: <= .75 x 5.4
        (5.3, {}, False),
        (5.3, {"parents": "device"}, True),
        (9.0, {"parents": "host"}, False),
        (10.6, {"gpus": 0.5}, False),  # half of it
        (10.7, {"gpus": 0.5}, True),
    ],
)
def test_parents_stay_on_a_gpu_that_they_leave_a_quarter_of(
    memory: float,
    workers: dict[str, Any],
    stay: bool,
    small_study: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = StudyConfig.from_yaml(small_study)
    config = replace(config, workers=replace(config.workers, **workers))
    opened = {name: open_model(name) for name in (config.base_model, *config.models)}
    one = sum(info.numel for info in opened[config.base_model].tensors.values()) * 4  # float32
    monkeypatch.setattr(devices_module, "memory_of", lambda _: int(memory * one))
    assert keeps_parents(config, opened, ["cuda"]) is stay
    assert keeps_parents(config, opened, ["cpu"])


@pytest.mark.parametrize(
    ("memory", "workers", "device", "models"),
    [
        (8.0, {}, "cpu", 2.0),
        (8.0, {"count": 4}, "cpu", 0.5),  # of one machine
        (8.0, {"count": 4}, "cuda", 2.0),  # a GPU each; the parents' 3 and the live model leave 2
        (6.0, {}, "cuda", 0.5),  # .75 x 6 - 4
        (12.0, {"gpus": 0.5}, "cuda", 0.5),
        (4.0, {}, "cuda", 1.0),  # parents stay in main memory
        (1.0, {"parents": "device"}, "cuda", 0.0),
    ],
)
def test_what_candidates_have_in_common_takes_a_quarter_or_what_parents_leave(
    memory: float,
    workers: dict[str, Any],
    device: str,
    models: float,
    small_study: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = StudyConfig.from_yaml(small_study)
    config = replace(config, workers=replace(config.workers, **workers))
    opened = {name: open_model(name) for name in (config.base_model, *config.models)}
    one = sum(info.numel for info in opened[config.base_model].tensors.values()) * 4
    monkeypatch.setattr(devices_module, "memory_of", lambda _: int(memory * one))
    assert memo_budget(config, opened, [device]) == pytest.approx(models * one, abs=4)
