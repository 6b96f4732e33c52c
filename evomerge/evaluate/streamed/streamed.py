"""Runs a model of which one part's weights are there at a time: a layer, the embeddings, the head.

All batches go through the model together, part by part, and stay where they are between two of
them as suspended calls (`lockstep`): so each part is made once for all, and it is the
architecture's own code that runs, operation by operation what runs in a whole model. Without their
weights parts hold NaN, which no score survives.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from evomerge.core.memory import give_back
from evomerge.evaluate.spread import parts_of
from evomerge.evaluate.streamed.ahead import Ahead
from evomerge.evaluate.streamed.lockstep import in_step, is_in_step, stop_at

T = TypeVar("T")


class Source(Protocol):
    """Makes a candidate's weights."""

    def tensors(self, names: Sequence[str]) -> Mapping[str, Tensor]:
        """Return the tensors of these names in the live model; buffers only if they are stored."""
        ...


class _Weight(NamedTuple):
    """A parameter or buffer: its name in the model, the module that has it, and its name there."""

    live: str
    module: nn.Module
    name: str


class Streamed:
    """Gives a model's parts their weights when they run, and takes them away again.

    Args:
        model: One without weights (`model.load_model` with ``empty``).
        ahead: Whether the next part is made in a thread while one runs; the device then holds two.

    Attributes:
        source: Makes the weights of the candidate that the model stands for.
        seconds: Time that the model has waited for weights; the caller may reset it.
    """

    def __init__(self, model: Any, ahead: bool = True):
        self.seconds = 0.0
        self._source: Source | None = None
        self._parts: list[list[_Weight]] = []
        self._always: list[_Weight] = []  # of modules that are no part, such as a class token
        self._there: tuple[int, list[tuple[_Weight, nn.Parameter]]] | None = None
        self._on_cpu = model.device.type == "cpu"
        self._ahead = Ahead(model.device) if ahead else None
        modules = dict(model.named_modules())
        names = parts_of(model, "", set(getattr(model, "_no_split_modules", None) or ()))
        for path, _ in names:
            module = modules.get(path)
            if module is None:
                path, _, name = path.rpartition(".")
                self._always.append(_Weight(f"{path}.{name}".lstrip("."), modules[path], name))
            elif weights := _weights(module, path):
                module.register_forward_pre_hook(_Stop(self, len(self._parts)))
                self._parts.append(weights)
        self._path = list(range(len(self._parts)))  # the parts that the last pass ran, in order
        _known[model] = self

    @property
    def source(self) -> Source | None:
        """The maker of the candidate's weights."""
        return self._source

    @source.setter
    def source(self, source: Source) -> None:
        self._leave()
        self._source = source
        _put(self._always, source.tensors([weight.live for weight in self._always]))

    def run(self, functions: Sequence[Callable[[], T]]) -> list[T]:
        """Run functions that call the model, all of them in one pass over its parts.

        Each may call it several times: there are as many passes as the most that one calls it.
        """
        passed: list[int] = []  # the parts so far

        def reach(part: int) -> None:
            if passed[-1:] == [part]:
                return
            self.load(part)
            passed.append(part)
            n = len(passed)
            if self._ahead is not None and self._path[:n] == passed and n < len(self._path):
                self._ahead.begin(self._path[n], partial(self._made, self._path[n]))

        try:
            return in_step(functions, reach)
        finally:
            self._leave()
            self._path = passed or self._path

    def load(self, part: int) -> None:
        """Give a part its weights, and take those of another away."""
        if self._there is not None and self._there[0] == part:
            return
        began = time.perf_counter()
        self._take_away()
        make = partial(self._made, part)
        weights = make() if self._ahead is None else self._ahead.take(part, make)
        self._there = part, _put(self._parts[part], weights)
        self.seconds += time.perf_counter() - began

    def _made(self, part: int) -> Mapping[str, Tensor]:
        assert self._source is not None, "a streamed model is run after it has a source"
        return self._source.tensors([weight.live for weight in self._parts[part]])

    def _take_away(self) -> None:
        if self._there is None:
            return
        for weight, empty in self._there[1]:
            weight.module._parameters[weight.name] = empty
        self._there = None
        if self._on_cpu:
            give_back()

    def _leave(self) -> None:
        """Hold no part's weights any more."""
        self._take_away()
        if self._ahead is not None:
            self._ahead.drop()


class _Stop:
    """Stops a call of the model before a part, until that has its weights."""

    def __init__(self, streamed: Streamed, part: int):
        self._streamed, self._part = weakref.ref(streamed), part

    def __call__(self, _module: nn.Module, _arguments: tuple[Any, ...]) -> None:
        streamed = self._streamed()
        if streamed is not None and not stop_at(self._part):
            streamed.load(self._part)  # a call by itself


def streamed_of(model: Any) -> Streamed | None:
    """Return what streams a model; ``None`` where it is whole."""
    return _known.get(model)


def together(model: Any, functions: Sequence[Callable[[], T]]) -> list[T]:
    """Run functions that call a model: one after the other, or in one pass where it is streamed."""
    streamed = streamed_of(model)
    if streamed is None or is_in_step():
        return [function() for function in functions]
    return streamed.run(functions)


def _weights(module: nn.Module, path: str) -> list[_Weight]:
    """List a part's parameters, and the buffers that a checkpoint may have."""
    weights = []
    for inner, owner in module.named_modules(prefix=path):
        stored = owner._buffers.keys() - owner._non_persistent_buffers_set
        names = [name for name, one in owner._parameters.items() if one is not None]
        names += [name for name in owner._buffers if name in stored]
        weights += [_Weight(f"{inner}.{name}", owner, name) for name in names]
    return weights


def _put(
    weights: Sequence[_Weight], tensors: Mapping[str, Tensor]
) -> list[tuple[_Weight, nn.Parameter]]:
    """Set weights, and return the parameters that were there."""
    before = []
    for weight in weights:
        if weight.live not in tensors:
            continue
        empty = weight.module._parameters.get(weight.name)
        if empty is None:
            weight.module._buffers[weight.name] = tensors[weight.live]
            continue
        made = nn.Parameter(tensors[weight.live], requires_grad=False)
        weight.module._parameters[weight.name] = made
        before.append((weight, empty))
    return before


_known: WeakKeyDictionary[Any, Streamed] = WeakKeyDictionary()
