"""Runs functions in turn, each up to the next place where it stops, so that all pass it together.

A function stops in the middle of what it calls, and goes on there when its turn comes again. So
each has a thread of its own, of which one runs at a time: nothing in them has to expect others.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")
_running = threading.local()  # the task of this thread


class _EndError(BaseException):
    """Ends a task whose result nobody wants: no `except Exception` on the way stops it."""


class _Task(Generic[T]):
    """One function in its thread; it runs while `go_on` waits."""

    def __init__(self, function: Callable[[], T]):
        self.place: int | None = None  # where it waits
        self.results: list[T] = []
        self._error: BaseException | None = None
        self._ends = False
        self._turn, self._done = threading.Semaphore(0), threading.Semaphore(0)
        # Both modes are of a thread.
        self._modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        run = partial(contextvars.copy_context().run, self._run, function)
        self._thread = threading.Thread(target=run, daemon=True)

    def go_on(self) -> None:
        """Run until it stops at a place, or to its end; raise what it raises."""
        self.place = None
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._turn.release()
        self._done.acquire()
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # which holds this frame, and weights in those below

    def stop_at(self, place: int) -> None:
        """Wait at a place for the next turn."""
        self.place = place
        self._done.release()
        self._turn.acquire()
        if self._ends:
            raise _EndError

    def end(self) -> None:
        """End it where it waits."""
        if self.place is not None:
            self._ends = True
            self._turn.release()
            self._thread.join()

    def _run(self, function: Callable[[], T]) -> None:
        _running.task = self
        inference, gradients = self._modes
        try:
            with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
                self.results.append(function())
        except BaseException as error:
            self._error = error
        self._done.release()


def stop_at(place: int) -> bool:
    """Wait at a place until its turn comes; return whether the caller is a function `in_step`."""
    task: _Task[Any] | None = getattr(_running, "task", None)
    if task is None:
        return False
    task.stop_at(place)
    return True


def is_in_step() -> bool:
    """Return whether the caller is one of the functions `in_step`."""
    return getattr(_running, "task", None) is not None


def in_step(functions: Sequence[Callable[[], T]], reach: Callable[[int], None]) -> list[T]:
    """Run functions that stop at numbered places, the lowest place first.

    Args:
        functions: What is run; the first to reach a place is the first to go on from there.
        reach: Called with a place before those that wait there go on, one after the other.

    Returns:
        Their results.

    Raises:
        BaseException: What one of them or `reach` raises; the others are ended.
    """
    tasks = [_Task(function) for function in functions]
    try:
        for task in tasks:
            task.go_on()
        while places := [task.place for task in tasks if task.place is not None]:
            place = min(places)
            reach(place)
            for task in tasks:
                if task.place == place:
                    task.go_on()
        return [result for task in tasks for result in task.results]
    finally:
        for task in tasks:
            task.end()
