"""Tells an error that says that memory ran out from all others, and gives freed memory back."""

from __future__ import annotations

import ctypes
import re
from contextlib import suppress

_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|bad_alloc|not enough memory|"
    r"alloc_failed",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says so, on a device or the host.

    >>> is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    True
    """
    text = f"{type(error).__name__}: {error}"
    return isinstance(error, MemoryError) or bool(_MEMORY.search(text))


def give_back() -> None:
    """Give the system what this process has freed: glibc keeps blocks of up to 32 MB for itself."""
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
