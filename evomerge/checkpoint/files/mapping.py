"""Weight files are mapped apart: none where the processor's cache takes it for another.

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

_PERIOD = 2**28  # addresses that differ by a multiple of it are taken for one another
_STEP = 2**21  # what large files' addresses are multiples of
_ATTEMPTS = 8
_PLENTY = 64  # of 128 places
_taken: set[int] = set()  # where files of this process begin, in steps within a period


def open_apart(file: Path) -> Any:
    """Open a safetensors file, as `safe_open` does, at a place of its own among large files.

    Raises:
        SafetensorError, OSError: The file cannot be read.
    """
    stream = safe_open(file, framework="pt")
    size = file.stat().st_size
    if size < _STEP or sys.platform != "linux":
        return stream
    place = _place(stream)
    unwanted = [stream]  # mapped until the end, lest one be mapped there again
    with ExitStack() as gaps:
        for attempt in range(_ATTEMPTS):
            if place not in _taken:
                break
            try:  # takes the next place of this size; never touched, so of no memory
                gap = mmap.mmap(-1, size + attempt * _STEP, mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
            except (OSError, ValueError):
                break
            gaps.enter_context(closing(gap))
            stream = safe_open(file, framework="pt")
            place = _place(stream)
            unwanted.append(stream)
    if len(_taken) >= _PLENTY:
        _taken.clear()  # most belong to files that are closed by now
    _taken.add(place)
    return stream


def _place(stream: Any) -> int:
    """Return the place of a file's first tensor, in steps within a period."""
    address: int = stream.get_tensor(next(iter(stream.keys()))).data_ptr()
    return address % _PERIOD // _STEP
