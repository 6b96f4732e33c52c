"""Defines the pool of workers, wherever they run: it takes requests and gives replies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from evomerge.checkpoint.opening import inspect_models
from evomerge.study.config import StudyConfig
from evomerge.study.workers.versions import versions

Message = dict[str, Any]

ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "LMEVAL_LOG_LEVEL": "ERROR",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
}


@dataclass(frozen=True)
class Reply:
    """A worker's reply: an answer, or word that the worker is gone, and why.

    The `kind` of a loss is ``infrastructure``, or ``oom`` where the system ended the worker because
    memory ran out.
    """

    worker: int
    answer: Message | None
    lost: str | None = None
    kind: str = "infrastructure"


class Pool(ABC):
    """Workers numbered 0 to size - 1; each serves one request at a time.

    Attributes:
        notice: Called with what the user should know while workers wait.
        words: Where what the workers print can be read, for messages.
    """

    words = "workers.log in the run folder"

    def __init__(self, config: StudyConfig):
        self.config = config
        self.size = config.workers.count
        self.notice: Callable[[str], None] = lambda _: None
        self._inspected = inspect_models([config.base_model, *config.models])

    @property
    def told(self) -> Message:
        """Return the message that starts a worker: the study, our versions, what was inspected."""
        return {**self.config.to_dict(), "versions": versions(), "inspected": self._inspected}

    @abstractmethod
    def submit(self, worker: int, request: Message) -> None:
        """Send a request to an idle worker."""

    @abstractmethod
    def poll(self, timeout: float) -> list[Reply]:
        """Wait at most `timeout` seconds for replies, and return all that are there."""

    @abstractmethod
    def restart(self, worker: int) -> None:
        """End a worker, whatever it is doing, and put a new one in its place."""

    @abstractmethod
    def close(self) -> None:
        """End all workers."""

    def is_up(self, worker: int) -> bool:
        """Return whether a worker can be given work.

        Before that, a request would only wait for it.
        """
        return 0 <= worker < self.size

    def device(self, worker: int) -> str:
        """Return the device of a worker, as far as this pool can tell it from other workers'."""
        return f"worker {worker}"

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
