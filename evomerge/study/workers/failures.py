"""Sorts what can go wrong with an evaluation by kind; the kind decides what happens next.

| kind | what it is | what happens |
|---|---|---|
| ``study`` | no score could be believed: a parent changed, versions differ | the study stops |
| ``infrastructure`` | a worker or its node was lost | tried again on another worker |
| ``timeout`` | far slower than all others | its worker is killed, tried again |
| ``oom`` | out of memory, on a device or the host | tried again in batches of half the size |
| ``device`` | the device or its driver is broken | tried on another worker; the second time the
device is used no more, and what it scored in this batch is scored again elsewhere |
| ``non-finite`` | NaN or infinity in weights or logits | the trial failed |
| ``degenerate`` | nearly all that it generates is blank or repeats itself | the trial failed |
| ``crash`` | the recipe ends each worker that tries it, other work does not | the trial failed |
| ``task`` | the task's own code fails on too many items | the trial failed |
| ``user`` | the method refuses this recipe | the trial failed |
"""

from __future__ import annotations

import re
from pathlib import Path
from traceback import extract_tb

from evomerge.core.redact import redact

TRANSIENT = frozenset({"infrastructure", "timeout", "oom", "device"})
FATAL = frozenset({"study"})

# What PyTorch, CUDA's runtime and NVIDIA's driver say when a process can use its device no more.
_DEVICE = re.compile(
    r"CUDA error|cuda runtime error|device-side assert|CUBLAS_STATUS|CUDNN_STATUS|NCCL error|"
    r"unspecified launch failure|illegal memory access|fallen off the bus|uncorrectable ECC|"
    r"\bXid\b|HIP error|MPS backend|no CUDA-capable device",
    re.IGNORECASE,
)
_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|bad_alloc|not enough memory|"
    r"alloc_failed",
    re.IGNORECASE,
)


class StudyStopError(Exception):
    """Nothing that is scored from now on could be believed."""


def kind_of(error: BaseException) -> str:
    """The kind of an error that nobody expected."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError) or _MEMORY.search(text):
        return "oom"
    return "device" if _DEVICE.search(text) else "task"


def failure(kind: str, message: str) -> dict[str, dict[str, str]]:
    """A failure as a worker's answer: one line, no secrets, of bounded length."""
    return {"failed": {"kind": kind, "message": redact(" ".join(message.split()))[:2000]}}


def described(error: BaseException) -> str:
    """An error nobody expected, with its type and its place."""
    frames = extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
