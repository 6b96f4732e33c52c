"""Makes the next part's weights in a thread while the model runs the present one.

On a GPU it does so in a stream of its own: what is copied and merged there does not wait for the
model's products, and an event holds these back until their weights are whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
Made = tuple[Weights, torch.cuda.Event | None]


class Ahead:
    """Makes one part ahead, at most.

    Args:
        device: Where the weights are made.
    """

    def __init__(self, device: torch.device):
        self._device = device
        stream: Any = torch.cuda.Stream  # without hints
        self._stream = stream(device) if device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="weights")
        self._begun: tuple[int, Future[Made]] | None = None

    def begin(self, part: int, make: Callable[[], Weights]) -> None:
        """Begin to make a part's weights."""
        self.drop()
        self._begun = part, self._thread.submit(self._made, make)

    def take(self, part: int, make: Callable[[], Weights]) -> Weights:
        """Return a part's weights: those that were begun, once they are whole, or made now.

        Raises:
            Exception: What making them raised.
        """
        if self._begun is None or self._begun[0] != part:
            self.drop()
            return make()
        begun, self._begun = self._begun[1], None
        weights, whole = begun.result()
        if whole is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(whole)
            for tensor in weights.values():
                tensor.record_stream(stream)  # its memory is not used again before that is done
        return weights

    def drop(self) -> None:
        """Wait for what was begun, and forget it."""
        if self._begun is not None:
            self._begun[1].cancel()
            self._begun[1].exception() if not self._begun[1].cancelled() else None
            self._begun = None

    def _made(self, make: Callable[[], Weights]) -> Made:
        if self._stream is None:
            return make(), None
        with torch.cuda.stream(self._stream):
            return make(), self._stream.record_event()
