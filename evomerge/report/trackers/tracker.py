"""What a tracker is told of a study, whichever tracker it is."""

from __future__ import annotations

import abc
import hashlib
import importlib
import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.core.errors import UserError, unknown
from evomerge.report.status import baseline
from evomerge.study.journal.record import Record

# name -> (module here, class, the package that it needs)
_LOGGERS = {
    "mlflow": ("mlflow", "MlflowLogger", "mlflow-skinny"),
    "tensorboard": ("tensorboard", "TensorboardLogger", "tensorboard"),
    "wandb": ("wandb", "WandbLogger", "wandb"),
}


class Logger(abc.ABC):
    """Listens to a study's events and passes numbers on: one step per generation.

    Args:
        directory: The run folder; its name is the run's name.
        place: Where the tracker keeps it, in its own words; ``None`` for its default.
    """

    def __init__(self, directory: Path, place: str | None):
        self.directory = directory
        self.place = place
        self._open = self._broken = False

    def __call__(self, event: Mapping[str, Any], record: Record) -> None:
        """Take in an event that the record already has."""
        if record.study is None or self._broken:
            return
        try:
            self._tell(event, record)
        except Exception as error:  # trackers raise what they like, and no study may end of it
            self._broken = True
            print(
                f"warning: nothing more is logged to {type(self).__module__.rpartition('.')[2]}: "
                f"{' '.join(str(error).split())[:300]}",
                file=sys.stderr,
            )

    def _tell(self, event: Mapping[str, Any], record: Record) -> None:
        assert record.study is not None
        if not self._open:
            self._begin(study_id(record), flat(record.study["config"]))
            self._open = True
        match event["event"]:
            case "told":
                self._log(generation_numbers(event, record), event["generation"])
            case "verdict":
                last = max(record.generations, default=0)
                self._log(verdict_numbers(event), last)
                self._say(event["sentence"])

    def close(self) -> None:
        """Let the tracker finish; nothing more is logged."""
        if self._open and not self._broken:
            self._end()
        self._open = False

    @abc.abstractmethod
    def _begin(self, identity: str, config: Mapping[str, Any]) -> None:
        """Open the run of this identity, or go on with it."""

    @abc.abstractmethod
    def _log(self, numbers: Mapping[str, float], step: int) -> None: ...

    @abc.abstractmethod
    def _say(self, sentence: str) -> None: ...

    @abc.abstractmethod
    def _end(self) -> None: ...


def open_logger(told: str, directory: Path) -> Logger:
    """The logger of an option such as ``tensorboard``, ``mlflow:URI`` or ``wandb:PROJECT``.

    Raises:
        UserError: There is no such tracker, or its package is not installed.
    """
    name, _, place = told.partition(":")
    if name not in _LOGGERS:
        raise UserError(f"--log-to: {unknown('tracker', name, _LOGGERS)}")
    module, kind, package = _LOGGERS[name]
    try:
        made = getattr(importlib.import_module(f"evomerge.report.trackers.{module}"), kind)
        logger: Logger = made(directory, place or None)
    except ModuleNotFoundError as error:
        raise UserError(
            f"--log-to {name} needs the package {error.name}: python -m pip install {package}"
        ) from None
    return logger


def study_id(record: Record) -> str:
    """The same for all sessions of a study, another for each study; 16 hex digits."""
    text = json.dumps(record.study, sort_keys=True)  # holds the moment at which it began
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def generation_numbers(event: Mapping[str, Any], record: Record) -> dict[str, float]:
    """What is logged of a generation."""
    known = [value for value in event["fitness"] if value is not None]
    reference = (event.get("reference") or {}).get("fitness")
    numbers: dict[str, float | None] = {
        "fitness/reference": reference,
        "rank_correlation": event["correlation"],
        "trials": sum(len(g.trials) for g in record.generations.values() if g.fitness is not None),
        "trials_failed": sum(t.failure is not None for t in record.trials.values()),
        "item_evaluations": record.item_evaluations,
        "worker_seconds": record.seconds["total"],
    }
    if record.seconds["total"]:
        numbers["forward_share"] = record.seconds["forward"] / record.seconds["total"]
    if known:
        numbers["fitness/best"], numbers["fitness/median"] = max(known), statistics.median(known)
        if reference is not None:
            numbers["gain/best"] = max(known) - reference
            numbers["gain/median"] = statistics.median(known) - reference
    if event["generation"] == 0:
        for kind, best in baseline(record).items():
            numbers[f"metric/best_{kind}"] = best["score"]
    return {name: float(value) for name, value in numbers.items() if value is not None}


def verdict_numbers(event: Mapping[str, Any]) -> dict[str, float]:
    """What is logged of the verdict."""
    numbers = {"verdict/improvement_shown": float(event["improvement_shown"])}
    for comparison in event["comparisons"]:
        for part in ("difference", "low", "high"):
            if comparison[part] is not None:
                numbers[f"verdict/{comparison['kind']}/{part}"] = float(comparison[part])
    return numbers


def flat(config: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """A configuration with one key per value.

    >>> flat({"search": {"seed": 0, "deadline": None}, "models": ["a", "b"]})
    {'search.seed': 0, 'search.deadline': None, 'models': "['a', 'b']"}
    """
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{path}{key}.")
        else:
            plain = value is None or isinstance(value, bool | int | float | str)
            found[f"{path}{key}"] = value if plain else str(value)
    return found
