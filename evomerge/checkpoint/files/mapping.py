"""Maps weight files at staggered addresses, so that parents do not alias in the L1 cache.

Some first-level caches look a line up by the lower 28 bits of its address (AMD's way predictor).
Files of one size are mapped at one distance, and where that is a multiple of 2**28, as with 134 M
parameters in bfloat16, a pass over several of them misses that cache and takes twice the time.
"""

from __future__ import annotations

import mmap
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from safetensors import safe_open

_PERIOD = 2**28  # the cache confuses addresses that differ by a multiple of it
_STEP = 2**21  # addresses of large files are multiples of it
_ATTEMPTS = 8
_MAX_TAKEN = 64  # of 128 steps within a period
_taken: set[int] = set()  # the steps at which files of this process begin


def open_staggered(file: Path) -> Any:
    """Open a safetensors file like `safe_open`; a large one begins at a step that no other has.

    Raises:
        SafetensorError, OSError: The file cannot be read.
    """
    stream = safe_open(file, framework="pt")
    size = file.stat().st_size
    if size < _STEP or sys.platform != "linux":
        return stream
    step = _step_of(stream)
    mapped = [stream]  # stay mapped until the end, so that none of their addresses comes again
    with ExitStack() as gaps:
        for attempt in range(_ATTEMPTS):
            if step not in _taken:
                break
            try:  # takes the next address for this size; never touched, so it needs no memory
                gap = mmap.mmap(-1, size + attempt * _STEP, mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
            except (OSError, ValueError):
                break
            gaps.enter_context(closing(gap))
            stream = safe_open(file, framework="pt")
            step = _step_of(stream)
            mapped.append(stream)
    if len(_taken) >= _MAX_TAKEN:
        _taken.clear()  # most belong to files that are closed by now
    _taken.add(step)
    return stream


def _step_of(stream: Any) -> int:
    """Return the address of a file's first tensor, in steps within a period."""
    address: int = stream.get_tensor(next(iter(stream.keys()))).data_ptr()
    return address % _PERIOD // _STEP
