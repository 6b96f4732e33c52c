"""A worker that asks for a GPU never runs on the CPU instead."""

from __future__ import annotations

import pytest
import torch

from evomerge.core.errors import UserError
from evomerge.study.config import WorkersConfig
from evomerge.study.workers.devices import devices


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
