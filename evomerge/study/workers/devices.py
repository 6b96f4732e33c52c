"""Chooses the devices that a worker runs on: the CPU, or as many GPUs as the study says."""

from __future__ import annotations

import socket

import torch

from evomerge.core.errors import UserError
from evomerge.study.config import WorkersConfig


def device(name: str) -> str:
    """Resolve ``auto`` to a GPU if this process sees one, else to the CPU."""
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def devices(workers: WorkersConfig) -> list[str]:
    """List the devices of a worker: as many GPUs as `workers.gpus` says.

    Raises:
        UserError: The worker sees fewer, or none although the study names one.
    """
    first, count = device(workers.device), int(workers.gpus)
    if workers.device == "cpu":
        return [first]
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if workers.device.startswith("cuda") and not seen:
        raise UserError(
            f"workers.device: {workers.device}: torch {torch.__version__} sees no GPU on "
            f"{socket.gethostname()}; install a torch with CUDA and check `nvidia-smi`, or set "
            "device: cpu"
        )
    if seen < workers.gpus:
        each = f"{workers.gpus:g} GPU{'s' * (workers.gpus != 1)}"
        raise UserError(
            f"workers.gpus: each worker is to have {each}, but one on "
            f"{socket.gethostname()} sees {seen}; set a smaller workers.gpus, or device: cpu"
        )
    return [first] if count < 2 else [f"cuda:{i}" for i in range(count)]
