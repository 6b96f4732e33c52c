"""Writes to an MLflow run. The only door to the `mlflow` package."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.report.trackers.results import TrialTable
from evomerge.report.trackers.tracker import Tracker

_EXPERIMENT = "evomerge"
_TAG = "evomerge.study"
_NOT_ALLOWED = re.compile(r"[^\w\-. :/]")  # in the name of a metric


class MlflowTracker(Tracker):
    """Logs to the tracking server or store that was named, else to MLFLOW_TRACKING_URI's."""

    def __init__(self, directory: Path, destination: str | None):
        from mlflow import MlflowClient  # here, so that the file can be read without the package

        super().__init__(directory, destination)
        self._connect = MlflowClient

    def _begin(self, identity: str, config: Mapping[str, Any]) -> None:
        self._client = self._connect(tracking_uri=self.destination)
        known = self._client.get_experiment_by_name(_EXPERIMENT)
        experiment = (
            self._client.create_experiment(_EXPERIMENT) if known is None else known.experiment_id
        )
        runs = self._client.search_runs([experiment], f"tags.`{_TAG}` = '{identity}'")
        if runs:  # a resumed study
            self._run = runs[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        created = self._client.create_run(
            experiment, run_name=self.directory.resolve().name, tags={_TAG: identity}
        )
        self._run = created.info.run_id
        for name, value in config.items():
            self._client.log_param(self._run, name, str(value)[:500])

    def _log(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._client.log_metric(self._run, _NOT_ALLOWED.sub("_", name), value, step=step)

    def _say(self, sentence: str) -> None:
        self._client.set_tag(self._run, "verdict", sentence)

    def _table(self, table: TrialTable) -> None:
        del table  # it is trials.csv among the artifacts

    def _files(self, files: Sequence[Path]) -> None:
        for file in files:
            self._client.log_artifact(self._run, str(file))

    def _end(self) -> None:
        self._client.set_terminated(self._run)
