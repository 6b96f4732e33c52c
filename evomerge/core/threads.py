"""Makes the last bits of a result independent of the number of threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let sums over whole tensors, and products of matrices, run in the order of one thread.

    More threads add up parts of their own, so that the last bits would depend on how many there
    are. Sums along short rows need none of this: a row is added up by one thread in any case.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
