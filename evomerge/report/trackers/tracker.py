"""Computes the numbers that trackers get of a study, and defines the contract of all trackers."""

from __future__ import annotations

import abc
import hashlib
import importlib
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.core.errors import UserError, unknown
from evomerge.core.redact import redacted
from evomerge.report.status import baseline
from evomerge.report.trackers.results import (
    TrialTable,
    best_trial_numbers,
    result_files,
    trial_table,
)
from evomerge.study.journal.codec import to_json
from evomerge.study.journal.events import Event, ToldEvent, VerdictEvent
from evomerge.study.journal.record import Record
from evomerge.study.statistics.verdict import Verdict

# name -> (module here, class, the package that it needs)
_TRACKERS = {
    "mlflow": ("mlflow", "MlflowTracker", "mlflow-skinny"),
    "tensorboard": ("tensorboard", "TensorboardTracker", "tensorboard"),
    "wandb": ("wandb", "WandbTracker", "wandb"),
}


class Tracker(abc.ABC):
    """Listens to a study's events and passes numbers on: one step per generation.

    Args:
        directory: The run folder; its name is the run's name.
        destination: A folder, URI or project of the tracker; ``None`` for its default.
    """

    def __init__(self, directory: Path, destination: str | None):
        self.directory = directory
        self.destination = destination
        self._open = self._broken = False
        self._first: int | None = None  # the first generation that was logged
        self._record: Record | None = None

    def note(self) -> str | None:
        """Say how the whole run is logged, if this tracker did not hear of its beginning."""
        name = type(self).__module__.rpartition(".")[2]
        if self._broken or self._first == 0:
            return None
        what = "nothing new was logged" if self._first is None else "the session began later"
        return (
            f"{name}: {what}: `evomerge log {self.directory} --to {name}` logs the whole run "
            "where earlier sessions did not"
        )

    def __call__(self, event: Event, record: Record) -> None:
        """Take in an event that the record already has."""
        if record.study is None or self._broken:
            return
        self._record = record
        self._try(lambda: self._forward(event, record))

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # trackers raise anything, and none of it may end a study
            self._broken = True
            print(
                f"warning: nothing more is logged to {type(self).__module__.rpartition('.')[2]}: "
                f"{' '.join(str(error).split())[:300]}",
                file=sys.stderr,
            )

    @property
    def is_broken(self) -> bool:
        """Whether the tracker failed, which was said, and gets nothing more."""
        return self._broken

    def _forward(self, event: Event, record: Record) -> None:
        assert record.study is not None
        if not self._open:
            self._begin(study_id(record), flat(redacted(record.study.config)))
            self._open = True
        match event:
            case ToldEvent():
                self._first = event.generation if self._first is None else self._first
                numbers = generation_numbers(event, record) | best_trial_numbers(event, record)
                self._log(numbers, event.generation)
            case VerdictEvent():
                last = max(record.generations, default=0)
                self._log(verdict_numbers(event), last)
                self._say(event.sentence)

    def close(self) -> None:
        """Log the results of a study that has its verdict, and let the tracker finish."""
        record = self._record
        if self._open and not self._broken and record is not None and record.phase == "done":
            self._try(lambda: self._results(record))
        if self._open and not self._broken:
            self._try(self._end)
        self._open = False

    def _results(self, record: Record) -> None:
        self._table(trial_table(record))
        with result_files(self.directory, record) as files:
            self._files(files)

    @abc.abstractmethod
    def _begin(self, identity: str, config: Mapping[str, Any]) -> None:
        """Open the run of this identity, or go on with it."""

    @abc.abstractmethod
    def _log(self, numbers: Mapping[str, float], step: int) -> None: ...

    @abc.abstractmethod
    def _say(self, sentence: str) -> None: ...

    @abc.abstractmethod
    def _table(self, table: TrialTable) -> None:
        """Log the table of all trials, where the tracker has tables of its own."""

    @abc.abstractmethod
    def _files(self, files: Sequence[Path]) -> None:
        """Store files; they are there only during the call."""

    @abc.abstractmethod
    def _end(self) -> None: ...


def open_tracker(option: str, directory: Path) -> Tracker:
    """Return the tracker of an option such as ``tensorboard``, ``mlflow:URI`` or ``wandb:PROJECT``.

    Raises:
        UserError: There is no such tracker, or its package is not installed.
    """
    name, _, destination = option.partition(":")
    if name not in _TRACKERS:
        raise UserError(f"--log-to: {unknown('tracker', name, _TRACKERS)}")
    module, class_name, package = _TRACKERS[name]
    try:
        home = importlib.import_module(f"evomerge.report.trackers.{module}")
        tracker: Tracker = getattr(home, class_name)(directory, destination or None)
    except ModuleNotFoundError as error:
        raise UserError(
            f"--log-to {name} needs the package {error.name}: python -m pip install {package}"
        ) from None
    return tracker


def study_id(record: Record) -> str:
    """Return an identity that all sessions of a study share and no two studies; 16 hex digits."""
    text = json.dumps(
        record.study and to_json(record.study), sort_keys=True
    )  # with the moment at which it began
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def generation_numbers(event: ToldEvent, record: Record) -> dict[str, float]:
    """Return the numbers that are logged for a generation."""
    ask = record.generations[event.generation]
    standings = list(ask.standings())
    fitness = [standing.fitness for standing in standings]
    gains = [standing.gain for standing in standings if standing.gain is not None]
    numbers: dict[str, float | None] = {
        "fitness/reference": ask.reference,
        "rank_correlation": event.correlation,
        "loss_rank_correlation": event.loss_correlation,
        "trials": record.n_learned,
        "trials_failed": sum(t.failure is not None for t in record.trials.values()),
        "item_evaluations": record.item_evaluations,
        "worker_seconds": record.seconds["total"],
    }
    if record.seconds["total"]:
        numbers["forward_share"] = record.seconds["forward"] / record.seconds["total"]
    for name, values in (("fitness", fitness), ("gain", gains)):
        if values:
            numbers[f"{name}/best"] = max(values)
            numbers[f"{name}/median"] = statistics.median(values)
    if event.generation == 0:
        for kind, best in baseline(record).items():
            numbers[f"metric/best_{kind}"] = best["score"]
    return {name: float(value) for name, value in numbers.items() if value is not None}


def verdict_numbers(verdict: Verdict) -> dict[str, float]:
    """Return the numbers that are logged for the verdict."""
    numbers = {"verdict/improvement_shown": float(verdict.improvement_shown)}
    for task, score in verdict.scores.get("winner", {}).items():
        numbers[f"held_out/{task}"] = float(score)
    for comparison in verdict.comparisons:
        for part in ("difference", "low", "high"):
            numbers[f"verdict/{comparison.kind}/{part}"] = float(getattr(comparison, part))
    return numbers


def flat(config: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return a configuration with one key per value.

    >>> flat({"search": {"seed": 0, "deadline": None}, "models": ["a", "b"]})
    {'search.seed': 0, 'search.deadline': None, 'models': "['a', 'b']"}
    """
    values: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{path}{key}.")
        else:
            plain = value is None or isinstance(value, bool | int | float | str)
            values[f"{path}{key}"] = value if plain else str(value)
    return values
