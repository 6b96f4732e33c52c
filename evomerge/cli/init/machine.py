"""Looks at this machine, and says how many workers it has room for."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from evomerge.report.numbers import plural, size

_ROOM = 0.8  # of a device's memory for weights; the rest is activations and the runtime
_CUDA_FLOPS, _CORE_FLOPS = 5e13, 1e10  # of a forward pass, cautious: `check` measures


@dataclass(frozen=True)
class Machine:
    """Describes what this machine has.

    Attributes:
        cores: Cores that this process may use.
        memory: Bytes of main memory.
        gpus: Bytes of memory of each visible GPU.
    """

    cores: int
    memory: int
    gpus: tuple[int, ...]

    @classmethod
    def here(cls) -> Machine:
        """Look at this one."""
        import torch

        gpus: list[int] = []
        if torch.cuda.is_available():
            gpus = [
                torch.cuda.get_device_properties(i).total_memory
                for i in range(torch.cuda.device_count())
            ]
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return cls(len(os.sched_getaffinity(0)), memory, tuple(gpus))


@dataclass(frozen=True)
class Workers:
    """The workers of a study on a machine.

    Attributes:
        count: How many.
        gpus: Of each.
        threads: Of each.
        words: Why so many.
        flops: What all of them do in a second, cautiously.
    """

    count: int
    gpus: float
    threads: int
    words: str
    flops: float


def workers(machine: Machine, model_bytes: int, parents: int) -> Workers:
    """Return as many workers as the machine has room for.

    A worker holds the live model, the base and the parents.

    Args:
        machine: What there is.
        model_bytes: Of one model's weights; 0 where they are not known.
        parents: How many models are merged.

    >>> workers(Machine(16, 64 * 10**9, (80 * 10**9,) * 8), 14 * 10**9, 3).count
    4
    """
    needed = model_bytes * (parents + 2)
    what = f"{size(needed)} of weights each (live model, base, {plural(parents, 'model')})"
    if not needed:
        what = "sizes are not known before the models are downloaded"
    if machine.gpus:
        smallest = min(machine.gpus)
        each = max(1, math.ceil(needed / (_ROOM * smallest)))
        count = max(1, len(machine.gpus) // each)
        words = f"{len(machine.gpus)} GPUs of {size(smallest)}; {what}"
        if each > len(machine.gpus):
            words += ": more than these GPUs hold, so expect it to run out of memory"
            each = len(machine.gpus)
        return Workers(
            count, each, max(1, machine.cores // count), words, count * each * _CUDA_FLOPS
        )
    fit = machine.cores if not needed else int(_ROOM * machine.memory // needed)
    count = max(1, min(machine.cores, fit))
    threads = max(1, machine.cores // count)
    words = f"no GPU seen; {machine.cores} cores, {size(machine.memory)} of memory; {what}"
    if not fit:
        words += ": more than this machine has, so expect it to run out of memory"
    return Workers(count, 0, threads, words, machine.cores * _CORE_FLOPS)
