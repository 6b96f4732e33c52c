"""Writes TensorBoard event files, without torch. The only door to the `tensorboard` package."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.summary import Writer

from evomerge.report.trackers.results import TrialTable
from evomerge.report.trackers.tracker import Tracker


class TensorboardTracker(Tracker):
    """Writes to RUN/tensorboard, or to the folder that was named; files lie beside the events."""

    def _begin(self, identity: str, config: Mapping[str, Any]) -> None:
        del identity, config  # a resumed study writes another file of the same folder
        self._folder = self.destination or str(self.directory / "tensorboard")
        self._writer = Writer(self._folder)

    def _log(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def _say(self, sentence: str) -> None:
        del sentence

    def _table(self, table: TrialTable) -> None:
        del table  # it is trials.csv beside the events

    def _files(self, files: Sequence[Path]) -> None:
        for file in files:
            shutil.copyfile(file, Path(self._folder) / file.name)

    def _end(self) -> None:
        self._writer.close()
