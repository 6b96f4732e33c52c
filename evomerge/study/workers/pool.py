"""A pool of workers takes requests and returns replies, wherever the workers run."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from evomerge.checkpoint.opening import inspect_models
from evomerge.study.config import StudyConfig
from evomerge.study.versions import versions
from evomerge.study.workers.requests import Answer, Document, Request

ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "LMEVAL_LOG_LEVEL": "ERROR",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
}


@dataclass(frozen=True)
class Reply:
    """A worker's reply: an answer, or the reason why the worker was lost.

    The `kind` of a loss is ``infrastructure``, or ``oom`` where the system ended the worker because
    memory ran out.
    """

    worker: int
    answer: Answer | None
    lost: str | None = None
    kind: str = "infrastructure"


class Pool(ABC):
    """Workers numbered 0 to size - 1; each serves one request at a time.

    Attributes:
        size: How many there are. With ``workers.count: all`` it may grow in `poll`; the worker of a
            node that left is lost, and its number waits for another place.
        notice: Called with a message for the user while workers wait.
        output_location: Where the workers' output can be read, for messages.
    """

    output_location = "workers.log in the run folder"

    def __init__(self, config: StudyConfig):
        self.config = config
        self.size = config.workers.least
        self.notice: Callable[[str], None] = lambda _: None
        self._inspected = inspect_models([config.base_model, *config.models])

    @property
    def start_message(self) -> Document:
        """The message that starts a worker.

        It has the configuration, versions, inspections of model files, and the user's folder: a
        task's data files may be relative to it.
        """
        about = {"versions": versions(), "inspected": self._inspected, "folder": os.getcwd()}
        counted = replace(self.config.workers, count=self.size)  # `all` are so many
        return {**replace(self.config, workers=counted).to_dict(), **about}

    @abstractmethod
    def submit(self, worker: int, request: Request) -> None:
        """Send a request to an idle worker."""

    @abstractmethod
    def poll(self, timeout: float) -> list[Reply]:
        """Wait at most `timeout` seconds for replies, and return all that are there."""

    @abstractmethod
    def restart(self, worker: int) -> None:
        """End a worker, whatever it is doing, and start another under its number."""

    @abstractmethod
    def close(self) -> None:
        """End all workers."""

    def is_up(self, worker: int) -> bool:
        """Return whether a worker has started, so that a request would not just wait for it."""
        return 0 <= worker < self.size

    def device(self, worker: int) -> str:
        """Name the device of a worker; workers on the same device have the same name."""
        return f"worker {worker}"

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_pool(config: StudyConfig, log: Path) -> Pool:
    """Open the pool that `workers.backend` names: child processes, or Ray actors.

    Args:
        config: The study.
        log: Where child processes' output is written; Ray has logs of its own.
    """
    if config.workers.backend == "ray":
        from evomerge.study.workers.ray import RayPool

        return RayPool(config)
    from evomerge.study.workers.local import LocalPool

    return LocalPool(config, log)
