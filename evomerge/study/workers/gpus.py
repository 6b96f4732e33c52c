"""Lists the GPUs of this machine without torch, whose import takes seconds."""

from __future__ import annotations

import os
import subprocess

VISIBLE = "CUDA_VISIBLE_DEVICES"
_SECONDS = 20.0  # a driver that has to wake up takes some


def visible() -> list[str]:
    """The GPUs that workers may have, as `CUDA_VISIBLE_DEVICES` wants them.

    What that variable lists, if it is set; else the identifiers that ``nvidia-smi`` tells, and
    none where there is no such program or it fails.
    """
    listed = os.environ.get(VISIBLE)
    if listed is not None:
        return [name.strip() for name in listed.split(",") if name.strip()]
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        told = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=True, errors="replace"
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in told.stdout.splitlines() if line.strip()]
