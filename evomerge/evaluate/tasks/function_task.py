"""A user's Python function as a task: what it returns for the live model are the items' scores."""

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
from evomerge.evaluate.outcomes import NonFiniteError
from evomerge.evaluate.tasks.metric import Metric

ONE_NUMBER = 10  # items that a function with one number for everything counts as


@dataclass(frozen=True)
class FunctionTask:
    """A function that scores a model, higher is better.

    Attributes:
        name: The task's name.
        function: ``function(model, tokenizer)``, or ``function(model, tokenizer, items)``.
        items: How many items it scores; ``None`` if it gives one number, which then counts as the
            score of each of ten items.
        chooses: Whether it takes `items`, the numbers of those that are asked for.
        weight: In the objective.
        digest: Hash of its source file.
    """

    name: str
    function: Callable[..., Any]
    items: int | None
    chooses: bool
    weight: float
    digest: str

    metric = Metric("score", higher_is_better=True)

    @property
    def n_items(self) -> int:
        """How many items the task has."""
        return ONE_NUMBER if self.items is None else self.items

    def scores(self, model: Any, tokenizer: Any, asked: Sequence[int]) -> list[float]:
        """Call the function and check what it says.

        Raises:
            UserError: It returns something else than numbers, too few of them, or writes weights.
            NonFiniteError: A score is NaN or infinite.
        """
        before = _versions(model)
        extra = (list(asked),) if self.chooses else ()
        with torch.no_grad():
            told = self.function(model, tokenizer, *extra)
        if _versions(model) != before:
            raise UserError(f"task '{self.name}': its function changed the model's weights")
        if self.items is None:
            told = [told] * self.n_items
        found = _numbers(told)
        wanted = len(asked) if self.chooses else self.n_items
        if found is None or len(found) != wanted:
            what = "one number" if self.items is None else f"{wanted} numbers"
            got = f"{type(told).__name__} of {told!r}" if found is None else f"{len(found)}"
            if self.items is None:
                got = f"{type(told[0]).__name__}; for a score of each item, say how many `items`"
            raise UserError(
                f"task '{self.name}': expected {what} from its function, got {got}"[:500]
            )
        chosen = found if self.chooses else [found[item] for item in asked]
        for item, score in zip(asked, chosen, strict=True):
            if not math.isfinite(score):
                raise NonFiniteError(self.name, item)
        return chosen


def load_function(name: str, where: str, items: int | None, weight: float) -> FunctionTask:
    """Import ``file.py:function`` or ``package.module:function``; this runs the user's code.

    Raises:
        UserError: There is no such file, module or function, it cannot be imported, or it takes
            other arguments.
    """
    module_name, _, function_name = where.rpartition(":")
    if not module_name or not function_name:
        raise UserError(
            f"task '{name}': expected `function` as file.py:function or module:function, "
            f"but got '{where}'"
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
    takes = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is inspect.Parameter.empty
    ]
    chooses = len(takes) == 3
    if len(takes) not in (2, 3) or (chooses and items is None):
        raise UserError(
            f"task '{name}': expected {function_name}(model, tokenizer), or with `items` in the "
            f"study file {function_name}(model, tokenizer, items), but it takes {len(takes)}"
        )
    source = Path(inspect.getsourcefile(module) or "").read_bytes()
    digest = hashlib.sha256(source).hexdigest()
    return FunctionTask(name, function, items, chooses, weight, digest)


def _import(name: str) -> ModuleType:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = Path(name)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    known = f"evomerge_user_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(known, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[known] = module  # dataclasses and pickles look a class's module up there
    spec.loader.exec_module(module)
    return module


def _versions(model: Any) -> list[int]:
    return [parameter._version for parameter in model.parameters()]


def _numbers(told: Any) -> list[float] | None:
    if isinstance(told, torch.Tensor) or hasattr(told, "tolist"):
        told = told.tolist()
    if not isinstance(told, list | tuple):
        return None
    plain = [one.item() if hasattr(one, "item") else one for one in told]
    if not all(isinstance(one, Real) for one in plain):
        return None
    return [float(one) for one in plain]
