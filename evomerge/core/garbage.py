"""Pauses Python's search for cyclic garbage."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Pause the search for cyclic garbage while a journal is replayed.

    A replay makes hundreds of thousands of objects that stay, and no cycles; to go through all of
    them (and all of torch) again and again would take a fifth of its time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
