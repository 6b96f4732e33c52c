"""Writes to a Weights & Biases run. The only door to the `wandb` package.

``WANDB_MODE=offline`` keeps it on this machine; ``wandb sync`` sends it later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.report.trackers.results import TrialTable
from evomerge.report.trackers.tracker import Tracker


class WandbTracker(Tracker):
    """Logs to the project that was named, or to ``evomerge``."""

    def __init__(self, directory: Path, destination: str | None):
        import wandb  # here, so that the file can be read without the package

        super().__init__(directory, destination)
        self._wandb = wandb

    def _begin(self, identity: str, config: Mapping[str, Any]) -> None:
        self._run = self._wandb.init(
            project=self.destination or "evomerge",
            name=self.directory.resolve().name,
            id=identity,
            resume="allow",
            config=dict(config),
            dir=str(self.directory),
            settings=self._wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )

    def _log(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log({**numbers, "generation": step})

    def _say(self, sentence: str) -> None:
        self._run.summary["verdict"] = sentence

    def _table(self, table: TrialTable) -> None:
        rows = [[_plain(value) for value in row] for row in table.rows]
        self._run.log({"trials": self._wandb.Table(columns=table.columns, data=rows)})

    def _files(self, files: Sequence[Path]) -> None:
        artifact = self._wandb.Artifact(f"evomerge-{self._run.id}", type="result")
        for file in files:
            artifact.add_file(str(file), name=file.name)
        self._run.log_artifact(artifact)

    def _end(self) -> None:
        self._run.finish()


def _plain(value: Any) -> Any:
    """Return numbers and nothing as they are, all else as text: a column has one type."""
    return value if value is None or isinstance(value, int | float) else str(value)
