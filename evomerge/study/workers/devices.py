"""Chooses the devices that a worker runs on: the CPU, or as many GPUs as the study says."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.dtypes import CODES, ELEMENT_BYTES
from evomerge.core.errors import UserError
from evomerge.study.config import StudyConfig, WorkersConfig

ROOM = 0.9  # of a device's memory: the rest is the runtime's, and fragments
_LIMIT = Path("/sys/fs/cgroup/memory.max")  # a container's


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


def check_room(parameters: int, dtype: str, devices: Sequence[str]) -> None:
    """Refuse a model that no batch of any size could run in.

    Args:
        parameters: Of the live model.
        dtype: Of its weights.
        devices: Where it is to be.

    Raises:
        UserError: Its weights take more than the devices have, whatever else they hold.
    """
    needed = parameters * ELEMENT_BYTES[CODES[dtype]]
    there = sum(map(memory_of, dict.fromkeys(devices)))
    if needed > there:
        raise UserError(
            f"the space's largest candidate has {parameters / 1e6:,.4g} million parameters: its "
            f"weights take {needed / 1e9:.3g} GB in {dtype}, and {', '.join(devices)} "
            f"{'has' if len(devices) == 1 else 'have'} {there / 1e9:.3g} GB; lower experts, rank "
            "or layers in the space, or take a narrower dtype"
        )


def memory_of(device: str) -> int:
    """Return the bytes that a device has in all; on the CPU those of the machine or container."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(_LIMIT.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        return machine


def keeps_parents(
    config: StudyConfig, opened: Mapping[str, Checkpoint], devices: Sequence[str]
) -> bool:
    """Return whether a worker keeps its parents where it merges; on a CPU they are mapped there."""
    if torch.device(devices[0]).type == "cpu":
        return True
    if config.workers.parents is None and is_streamed(config, opened, devices):
        return False
    parents, live = _resident(config, opened)
    return parents_stay(parents, live, sum(map(memory_of, devices)), config.workers)


def _resident(config: StudyConfig, opened: Mapping[str, Checkpoint]) -> tuple[int, int]:
    """Return the bytes of base and parents, and of the live model."""
    infos = [info for checkpoint in opened.values() for info in checkpoint.tensors.values()]
    parents = sum(info.numel * ELEMENT_BYTES[info.dtype] for info in infos)
    n_parameters = sum(info.numel for info in opened[config.base_model].tensors.values())
    return parents, n_parameters * ELEMENT_BYTES[CODES[config.scored_in]]


def parents_stay(parents: int, live: int, memory: int, workers: WorkersConfig) -> bool:
    """Return whether a worker on a GPU keeps base and parents there, or copies them each time.

    Args:
        parents: Bytes of all of them.
        live: Bytes of the live model.
        memory: Bytes of the worker's device, or devices together.
        workers: What the study asks for; where it leaves it open, a quarter has to be left for
            batches and gradients.

    >>> parents_stay(60, 15, 80, WorkersConfig())
    False
    """
    if workers.parents is not None:
        return workers.parents == "device"
    return parents + live <= 0.75 * memory * min(1.0, workers.gpus or 1.0)


def is_streamed(
    config: StudyConfig, opened: Mapping[str, Checkpoint], devices: Sequence[str]
) -> bool:
    """Return whether a worker streams its candidates."""
    live = _resident(config, opened)[1]
    return streams(live, sum(map(memory_of, dict.fromkeys(devices))), config.workers)


def streams(live: int, memory: int, workers: WorkersConfig) -> bool:
    """Return whether a worker makes candidates layer by layer, since a whole one has no room.

    Args:
        live: Bytes of a candidate's weights.
        memory: Bytes of the worker's device.
        workers: What the study asks for.

    >>> streams(141, 80, WorkersConfig())
    True
    """
    if workers.candidate is not None:
        return workers.candidate == "streamed"
    return workers.gpus < 2 and live > ROOM * memory * min(1.0, workers.gpus or 1.0)


def memo_budget(
    config: StudyConfig, opened: Mapping[str, Checkpoint], devices: Sequence[str]
) -> int:
    """Return the bytes in which a worker may keep what candidates have in common.

    A quarter of its memory: its part of the machine's, or of its GPUs', where that is no more than
    parents and live model leave of three quarters.
    """
    workers, memory = config.workers, sum(map(memory_of, dict.fromkeys(devices)))
    if torch.device(devices[0]).type == "cpu":
        return memory // (4 * workers.least)
    memory = int(memory * min(1.0, workers.gpus or 1.0))
    parents, live = _resident(config, opened)
    resident = live + (parents if keeps_parents(config, opened, devices) else 0)
    return max(0, min(memory // 4, 3 * memory // 4 - resident))
