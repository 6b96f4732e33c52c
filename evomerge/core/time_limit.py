"""Ends a piece of Python that takes too long, where the system has timers."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Let the body take so many seconds at most.

    Works in a process's main thread, for Python code: a call into C, such as the search of a
    regular expression, ends first. Elsewhere there is no limit.

    Raises:
        TimeoutError: It took longer; the message says what did.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not (is_main and hasattr(signal, "setitimer")) or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError(f"{what} took longer than {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
