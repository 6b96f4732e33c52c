"""Writes TensorBoard event files, without torch. The only door to the `tensorboard` package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorboard.summary import Writer

from evomerge.report.trackers.tracker import Tracker


class TensorboardTracker(Tracker):
    """Writes to RUN/tensorboard, or to the folder that was named."""

    def _begin(self, identity: str, config: Mapping[str, Any]) -> None:
        del identity, config  # a resumed study writes another file of the same folder
        self._writer = Writer(self.destination or str(self.directory / "tensorboard"))

    def _log(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def _say(self, sentence: str) -> None:
        del sentence

    def _end(self) -> None:
        self._writer.close()
