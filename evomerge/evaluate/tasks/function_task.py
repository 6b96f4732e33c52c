"""Scores the live model by a user's Python function, whose return values are the items' scores.

Two functions are evomerge's own: they count the layers or the parameters of the model, so that an
objective, a constraint, the Pareto front and the verdict have its size beside its scores.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from evomerge.core.errors import UserError
from evomerge.evaluate.outcomes import LARGEST_SCORE, SIZE_METRICS, NonFiniteError
from evomerge.evaluate.tasks.metric import Metric

_SCORE = Metric("score", higher_is_better=True)
ONE_NUMBER = 10  # items that a function counts as which returns one number for everything


@dataclass(frozen=True)
class FunctionTask:
    """A function that scores a model.

    Attributes:
        name: The task's name.
        function: ``function(model, tokenizer)``, or ``function(model, tokenizer, items)``.
        items: Number of items that it scores; ``None`` if it gives one number, which then counts
            as the score of each of ten items.
        chooses: Whether it takes `items`, the numbers of those that are asked for.
        weight: Its weight in the objective.
        digest: Hash of its source file.
        metric: What a score is.
    """

    name: str
    function: Callable[..., Any]
    items: int | None
    chooses: bool
    weight: float
    digest: str
    metric: Metric = _SCORE

    @property
    def n_items(self) -> int:
        """Number of items that the task has."""
        return ONE_NUMBER if self.items is None else self.items

    def scores(self, model: Any, tokenizer: Any, asked: Sequence[int]) -> list[float]:
        """Call the function, and check the scores that it returns.

        Raises:
            UserError: It returns something else than numbers, a wrong count of them, or it writes
                weights.
            NonFiniteError: A score is NaN or infinite.
        """
        before = _versions(model)
        extra = (list(asked),) if self.chooses else ()
        with torch.no_grad():
            returned = self.function(model, tokenizer, *extra)
        if _versions(model) != before:
            raise UserError(f"task '{self.name}': its function changed the model's weights")
        if self.items is None:
            returned = [returned] * self.n_items
        numbers = _numbers(returned)
        count = len(asked) if self.chooses else self.n_items
        if numbers is None or len(numbers) != count:
            expected = "one number" if self.items is None else f"{count} numbers"
            kind = type(returned).__name__
            got = f"{kind} of {returned!r}" if numbers is None else f"{len(numbers)}"
            if self.items is None:
                kind = type(returned[0]).__name__
                got = f"{kind}; for a score of each item, say how many `items`"
            raise UserError(
                f"task '{self.name}': expected {expected} from its function, got {got}"[:500]
            )
        chosen = numbers if self.chooses else [numbers[item] for item in asked]
        for item, score in zip(asked, chosen, strict=True):
            if not math.isfinite(score):
                raise NonFiniteError(self.name, item)
            if abs(score) > LARGEST_SCORE:
                raise UserError(
                    f"task '{self.name}': expected scores of at most {LARGEST_SCORE:g}, since sums "
                    f"would not be finite, but its function gives {score:g} for item {item}"
                )
        return chosen


def load_function(name: str, path: str, items: int | None, weight: float) -> FunctionTask:
    """Import ``file.py:function`` or ``package.module:function``; this runs the user's code.

    Raises:
        UserError: There is no such file, module or function, it cannot be imported, or it takes
            other arguments.
    """
    module_name, _, function_name = path.rpartition(":")
    if not module_name or not function_name:
        raise UserError(
            f"task '{name}': expected `function` as file.py:function or module:function, "
            f"but got '{path}'"
        )
    try:
        module = _import(module_name)
    except UserError:
        raise
    except Exception as error:  # the user's file may raise anything
        raise UserError(
            f"task '{name}': cannot import {module_name}: {type(error).__name__}: {error}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UserError(f"task '{name}': {module_name} has no function '{function_name}'")
    required = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is inspect.Parameter.empty
    ]
    chooses = len(required) == 3
    if len(required) not in (2, 3) or (chooses and items is None):
        raise UserError(
            f"task '{name}': expected {function_name}(model, tokenizer), or with `items` in the "
            f"study file {function_name}(model, tokenizer, items), but it takes {len(required)}"
        )
    source = Path(inspect.getsourcefile(module) or "").read_bytes()
    digest = hashlib.sha256(source).hexdigest()
    return FunctionTask(name, function, items, chooses, weight, digest)


def size_task(name: str, counts: str, weight: float) -> FunctionTask:
    """Make a task that counts ``layers``, or ``parameters`` in millions; fewer is better."""
    metric = Metric(SIZE_METRICS[counts], higher_is_better=False)
    function = _layers if counts == "layers" else _parameters
    return FunctionTask(name, function, None, False, weight, counts, metric)


def _layers(model: Any, _: Any) -> float:
    return float(model.config.get_text_config(decoder=True).num_hidden_layers)


def _parameters(model: Any, _: Any) -> float:
    return float(sum(parameter.numel() for parameter in model.parameters()) / 1e6)


def _import(name: str) -> ModuleType:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = Path(name)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    unique = f"evomerge_user_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(unique, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module  # dataclasses and pickles look a class's module up there
    spec.loader.exec_module(module)
    return module


def _versions(model: Any) -> list[int]:
    return [parameter._version for parameter in model.parameters()]


def _numbers(returned: Any) -> list[float] | None:
    if isinstance(returned, torch.Tensor) or hasattr(returned, "tolist"):
        returned = returned.tolist()
    if not isinstance(returned, list | tuple):
        return None
    plain = [one.item() if hasattr(one, "item") else one for one in returned]
    if not all(isinstance(one, Real) for one in plain):
        return None
    return [float(one) for one in plain]
