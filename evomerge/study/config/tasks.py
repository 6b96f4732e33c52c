"""Reads `evaluate.tasks`: what candidates are scored on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evomerge.core.errors import UserError


@dataclass(frozen=True)
class TaskConfig:
    """One lm-eval task: its metric (``None``: the task's first) and its weight in the objective.

    Attributes:
        name: As lm-eval knows it: one of its own, or of a YAML file in `include_path`.
        metric: The metric that race and verdict compare by; ``None`` takes the task's first.
        weight: Its share of the objective is its weight over the sum of all weights.
        bounds: ``[low, high]``, the least and the greatest score that an item can have. The
            verdict's error rate is guaranteed only with bounds; accuracies and exact match have
            theirs, [0, 1], without being told.
        cluster: A field of the task's documents. Those in which it has the same value belong
            together, as questions about one passage: they fall in one pool, and the verdict counts
            them as one observation.
    """

    name: str
    metric: str | None = None
    weight: float = 1.0
    bounds: tuple[float, ...] | None = None
    cluster: str | None = None

    @staticmethod
    def kind_of(value: Any, where: str) -> tuple[type[TaskConfig], Any]:  # noqa: ARG004
        """Return the kind of an entry of `tasks`, and the entry as a mapping."""
        if isinstance(value, str):
            return TaskConfig, {"name": value}
        by_key = {
            "text": TextTaskConfig,
            "preferences": PreferencesTaskConfig,
            "function": FunctionTaskConfig,
            "tokens_of": TokensTaskConfig,
            "counts": CountsTaskConfig,
        }
        kinds = (by_key[key] for key in by_key if isinstance(value, Mapping) and key in value)
        return next(kinds, TaskConfig), value

    def check(self, where: str) -> None:
        """Refuse what could not be scored."""
        ends = self.bounds
        if ends is not None and not (len(ends) == 2 and -math.inf < ends[0] < ends[1] < math.inf):
            raise UserError(f"{where}.bounds: expected [low, high], but got {list(ends)}")

    def located(self, absolute: Callable[[str], str], where: str) -> TaskConfig:  # noqa: ARG002
        """Return the task with the whole path of its file, if it has one."""
        return self


@dataclass(frozen=True)
class TextTaskConfig(TaskConfig):
    """Bits per byte of a text file; its chunks are the task's documents.

    Attributes:
        text: A UTF-8 file.
        chunk_bytes: How long a chunk is; it ends with a line where it can.
    """

    text: str = ""
    chunk_bytes: int = 1000

    def check(self, where: str) -> None:
        """Refuse chunks of nothing, and clusters."""
        super().check(where)
        if self.cluster is not None:
            raise UserError(f"{where}.cluster: a text's chunks have no fields")
        if self.chunk_bytes < 1:
            raise UserError(f"{where}.chunk_bytes: expected at least 1, but got {self.chunk_bytes}")

    def located(self, absolute: Callable[[str], str], where: str) -> TaskConfig:
        """Return the task with its text's whole path."""
        text = absolute(self.text)
        if not Path(text).is_file():
            raise UserError(f"{where}: {self.name}: there is no file {text}")
        return dataclasses.replace(self, text=text)


@dataclass(frozen=True)
class PreferencesTaskConfig(TaskConfig):
    """Answers chosen and rejected: is the chosen one likelier? The loss ``dpo`` learns from them.

    Attributes:
        preferences: A file of JSON lines, ``{"prompt": …, "chosen": …, "rejected": …}``.
    """

    preferences: str = ""

    def located(self, absolute: Callable[[str], str], where: str) -> TaskConfig:
        """Return the task with its file's whole path."""
        preferences = absolute(self.preferences)
        if not Path(preferences).is_file():
            raise UserError(f"{where}: {self.name}: there is no file {preferences}")
        return dataclasses.replace(self, preferences=preferences)


@dataclass(frozen=True)
class FunctionTaskConfig(TaskConfig):
    """A Python function that scores the live model, higher is better; needs `allow_task_code`.

    Attributes:
        function: ``file.py:function`` or ``module:function``, called with the model and tokenizer.
        items: How many scores it returns; ``None`` for one number, which stands for ten items.
    """

    function: str = ""
    items: int | None = None

    def check(self, where: str) -> None:
        """Refuse no items, and a metric or fields beside the function's scores."""
        super().check(where)
        if self.cluster is not None:
            raise UserError(f"{where}.cluster: a function's items have no fields")
        if self.items is not None and self.items < 1:
            raise UserError(f"{where}.items: expected at least 1, but got {self.items}")
        if self.metric is not None:
            raise UserError(f"{where}.metric: a function's scores are its metric")

    def located(self, absolute: Callable[[str], str], where: str) -> TaskConfig:  # noqa: ARG002
        """Return the task with its file's whole path; a module's name stays."""
        module, colon, function = self.function.rpartition(":")
        return dataclasses.replace(self, function=absolute(module) + colon + function)


@dataclass(frozen=True)
class TokensTaskConfig(TaskConfig):
    """The length of the answers to another task of the study, in tokens; fewer is better.

    Attributes:
        tokens_of: A task of the study that generates answers; thinking counts too.
        weight: What a token costs, beside the weights of the others. At 0, the default, it is only
            measured, and counts in constraints.
    """

    tokens_of: str = ""
    weight: float = 0.0

    def check(self, where: str) -> None:
        """Refuse a metric and fields beside the count."""
        super().check(where)
        if self.cluster is not None:
            raise UserError(f"{where}.cluster: write it under {self.tokens_of}, for both")
        if self.metric is not None:
            raise UserError(f"{where}.metric: the number of tokens is the metric")


@dataclass(frozen=True)
class CountsTaskConfig(TaskConfig):
    """The size of the model, so that candidates of several depths differ in it; fewer is better.

    Attributes:
        counts: ``layers``, or ``parameters`` in millions, a tied one counted once.
        weight: What one of them costs, beside the weights of the others. At 0, the default, it is
            only measured, and counts in constraints.
    """

    counts: Literal["layers", "parameters"] = "layers"
    weight: float = 0.0

    def check(self, where: str) -> None:
        """Refuse a metric and fields beside the count."""
        super().check(where)
        for key, value in (("cluster", self.cluster), ("metric", self.metric)):
            if value is not None:
                raise UserError(f"{where}.{key}: the number of {self.counts} is one for all items")
