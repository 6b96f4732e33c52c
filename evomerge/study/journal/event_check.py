"""Checks a journal's events wherever one is read, so that no reader has to.

A frame's checksum says that nothing was damaged, not that evomerge wrote it: anybody can make one.
Unknown kinds of events and unknown keys are passed over, since a newer version may write them.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from evomerge.study.journal.codec import dimension
from evomerge.study.journal.event_marks import Known
from evomerge.study.journal.event_shapes import EVENTS, KeyShapes

_PLAIN = {str, bool, dict, list}  # of these the type says all
_LARGEST = 2**63  # what an outcome's columns hold
_NAMES = {
    **{str: "a text", int: "a whole number", float: "a number", bool: "true or false"},
    **{dict: "a mapping", list: "a list", type(None): "null", object: "something"},
}
_ROWS = "[task of that phase, document, metric or null, smooth or null, 0 or 1, 0 or 1]"
_POOLS = {"race": "race", "verdict": "holdout"}  # of a phase; of all others ``search``
_MOST_LAYERS = 10_000
_LATEST = 1e11  # seconds since 1970: the year 5138
_BEFORE_THE_STUDY = ("journal", "opened", "warning", "study")


class EventCheck:
    """Follows one journal's events in their order; `fault` says what is wrong with the next."""

    def __init__(self) -> None:
        self._ask_of: dict[int, int] = {}  # trial -> which `asked` event
        self._asks: list[tuple[int | None, list[int]]] = []  # generation, trials
        self._generations = 0
        self._dimensions: Sequence[Mapping[str, Any]] = ()
        self._pools: Mapping[str, Mapping[str, Any]] = {}
        self._tasks: Mapping[str, Any] | None = None  # none before the study

    def fault(self, event: Mapping[str, Any]) -> str | None:
        """Say what an event lacks or contradicts, and where in it; ``None`` if it can be used."""
        kind = event["event"]
        shape = EVENTS.get(kind)
        if shape is None:
            return None
        if kind == "study" and isinstance(event.get("tasks"), dict):
            self._tasks = event["tasks"]
        if self._tasks is None and kind not in _BEFORE_THE_STUDY:
            return ": expected a `study` event before it"
        return self._wrong(event, shape) or self._contradiction(kind, event)

    def _contradiction(self, kind: str, event: Mapping[str, Any]) -> str | None:
        """Say what does not fit together in an event that has all its keys; takes the event in."""
        if kind == "study":
            return self._begun(event)
        if kind == "asked":
            return self._asked(event["trials"]) or self._without_items(event["items"])
        if kind == "told":
            return self._told(event)
        if kind == "outcomes":
            gradient = event.get("gradient")
            if gradient is not None and len(gradient) != len(self._dimensions):
                return f".gradient: expected {len(self._dimensions)} numbers, one a dimension"
            pool = self._pools.get(_POOLS.get(event["phase"], "search"), {})
            return None if _are_rows(event["rows"], pool) else f".rows: expected {_ROWS}"
        if kind == "scored" and len(event["scores"]) < len(self._tasks or ()):
            return f".scores: expected one for each of {', '.join(self._tasks or ())}"
        if kind == "raced" and not event["scores"]:
            return ".scores: expected some"
        if kind == "verdict":
            return self._judged(event)
        return None

    def _begun(self, event: Mapping[str, Any]) -> str | None:
        self._dimensions = event["dimensions"]
        for i, fields in enumerate(self._dimensions):
            where = f".dimensions[{i}]"
            if fields["kind"] not in ("float", "int", "categorical"):
                return f"{where}.kind: expected float, int or categorical"
            try:
                dimension(fields)
            except (TypeError, ValueError) as error:
                return f"{where}: {error}"
        if (event["layers"] or 0) > _MOST_LAYERS:
            return f".layers: expected at most {_MOST_LAYERS}"
        if event.get("shard_items", 1) < 1:
            return ".shard_items: expected at least 1"
        weights = [task["weight"] for task in event["tasks"].values()]
        if min(weights, default=0) < 0 or not any(weights):
            return ".tasks: expected weights >= 0, and one above"
        self._pools = event["pools"]
        if not event.get("elsewhere"):
            for pool in ("search", "race", "holdout"):
                if not self._pools.get(pool) or not all(self._pools[pool].values()):
                    return f".pools.{pool}: expected items of every task in it"
        return None

    def _asked(self, trials: Sequence[Mapping[str, Any]]) -> str | None:
        numbers = [trial["trial"] for trial in trials]
        last = next(reversed(self._ask_of), -1)
        if not numbers or [*sorted({last, *numbers})] != [last, *numbers]:
            return f".trials: expected some, with rising numbers above {last}"
        generation = trials[0]["generation"]
        if generation not in (None, self._generations):
            return f".trials: expected generation {self._generations}, but got {generation}"
        for i, trial in enumerate(trials):
            if trial["generation"] != generation:
                return f".trials[{i}].generation: expected {generation}, as that of the first"
            if trial["point"] is not None and not self._is_point(trial["point"]):
                return f".trials[{i}].point: expected a value of each of the study's dimensions"
        self._ask_of |= dict.fromkeys(numbers, len(self._asks))
        self._asks.append((generation, numbers))
        self._generations += generation is not None
        return None

    def _without_items(self, items: Mapping[str, Any] | None) -> str | None:
        if items is None or (
            items.keys() == self._pools.get("search", {}).keys() and all(items.values())
        ):
            return None
        return ".items: expected some of every task that is searched on"

    def _is_point(self, point: Sequence[Any]) -> bool:
        return len(point) == len(self._dimensions) and all(
            value in d["choices"]
            if d["kind"] == "categorical"
            else _is(value, float) and d["low"] <= value <= d["high"]
            for d, value in zip(self._dimensions, point, strict=True)
        )

    def _told(self, event: Mapping[str, Any]) -> str | None:
        trials = event["trials"]
        if not trials or self._asks[self._ask_of[trials[0]]] != (event["generation"], trials):
            return ".trials: expected those of a generation, as they were asked"
        for gradient in event.get("gradients") or ():
            if gradient is not None and len(gradient) != len(self._dimensions):
                return f".gradients: expected {len(self._dimensions)} numbers, one a dimension"
        for key in ("fitness", "objectives", "violations", "gradients"):
            if event.get(key) is not None and len(event[key]) != len(trials):
                return f".{key}: expected {len(trials)} values, one for each trial"
        return None

    def _judged(self, event: Mapping[str, Any]) -> str | None:
        named = [event["winner"], event["race_winner"], *event["comparisons"]]
        if not all(entry["trial"] in self._ask_of for entry in named):
            return ": expected trials that were asked"
        if "winner" not in event["scores"]:
            return ".scores: expected those of the `winner`"
        for name, by_task in event["scores"].items():
            if not by_task.keys() <= (self._tasks or {}).keys():
                return f".scores.{name}: expected scores of the study's tasks"
        return None

    def _wrong(self, value: Any, shape: Any) -> str | None:
        """Say where a value is not of a shape, and how: ``.trials[3].digest: expected str …``."""
        if isinstance(shape, type):
            return None if _is(value, shape) else _instead(value, shape)
        if isinstance(shape, KeyShapes):
            return self._lacking(value, shape) if type(value) is dict else _instead(value, dict)
        if isinstance(shape, tuple):
            if value is None and None in shape:
                return None
            first, *others = shape
            wrong = self._wrong(value, first)
            return wrong if wrong and all(self._wrong(value, one) for one in others) else None
        if isinstance(shape, list):
            return self._listed(value, shape[0]) if type(value) is list else _instead(value, list)
        if isinstance(shape, dict):
            return self._named(value, shape) if type(value) is dict else _instead(value, dict)
        good = self._is_known(value, shape) if isinstance(shape, Known) else _is(value, shape)
        return None if good else _instead(value, shape)

    def _lacking(self, value: Mapping[str, Any], shape: KeyShapes) -> str | None:
        for name, is_needed, inner in shape:
            if name in value:
                if type(value[name]) is inner in _PLAIN:
                    continue
                wrong = self._wrong(value[name], inner)
                if wrong:
                    return f".{name}{wrong}"
            elif is_needed:
                return f".{name}: expected {_words(inner)}, but it is missing"
        return None

    def _listed(self, value: Sequence[Any], shape: Any) -> str | None:
        if shape is int and {*map(type, value)} == {int} and max(map(abs, value)) < _LARGEST:
            return None  # the usual long list
        for i, one in enumerate(value):
            wrong = self._wrong(one, shape)
            if wrong:
                return f"[{i}]{wrong}"
        return None

    def _named(self, value: Mapping[str, Any], shape: Mapping[Any, Any]) -> str | None:
        ((named, inner),) = shape.items()
        for name, one in value.items():
            if named is not str and self._wrong(_number(name, named), named):
                return f": expected names that are {_words(named)}, but got {name!r:.40}"
            wrong = self._wrong(one, inner)
            if wrong:
                return f".{name}{wrong}"
        return None

    def _is_known(self, value: Any, shape: Known) -> bool:
        if shape is Known.TRIAL:
            return type(value) is int and value in self._ask_of
        if shape is Known.BATCHES:
            return type(value) is list and [*map(type, value)] == [str, int] and value[1] >= 0
        if shape is Known.MOMENT:
            return _is(value, float) and 0 <= value < _LATEST
        return isinstance(value, str) and value in (self._tasks or ())


def _is(value: Any, shape: Any) -> bool:
    if shape is float:
        return (type(value) is float and math.isfinite(value)) or (
            type(value) is int and abs(value) < _LARGEST
        )
    if shape is int:
        return type(value) is int and abs(value) < _LARGEST
    return value is None if shape is None else shape is object or type(value) is shape


def _instead(value: Any, shape: Any) -> str:
    return f": expected {_words(shape)}, but got {value!r:.40}"


def _number(name: str, named: Any) -> Any:
    """Return the number that a name stands for, if it should be one: JSON's names are all texts."""
    is_number = named in (Known.TRIAL, int) and name.isdecimal() and len(name) < 16
    return int(name) if is_number else name


def _words(shape: Any) -> str:
    if isinstance(shape, tuple):
        return " or ".join(map(_words, shape))
    if isinstance(shape, Known):
        return str(shape.value)
    if isinstance(shape, KeyShapes):
        return "a mapping"
    return _NAMES[shape if isinstance(shape, type) else type(shape)]


def _are_rows(rows: Sequence[Any], tasks: Mapping[str, Any]) -> bool:
    """Return whether these are outcomes, as `OutcomeRow` is written.

    By columns, since there are many.
    """
    lengths = {*map(len, rows)} if {*map(type, rows)} <= {list} else {0}
    if not lengths <= {6, 7}:
        return False
    if not rows:
        return True
    columns = zip(*rows, strict=True) if len(lengths) == 1 else zip_longest(*rows, fillvalue=0)
    names, ids, metric, smooth, *flags = columns
    try:
        array("q", ids)
        flagged = b"".join(map(bytes, flags))
        return tasks.keys() >= {*names} and not flagged.strip(b"\0\1") and _finite(metric, smooth)
    except (TypeError, ValueError, OverflowError):
        return False


def _finite(*columns: Sequence[Any]) -> bool:
    """Return whether all are numbers or None."""
    for column in columns:
        missing = column.count(None)
        present = [value for value in column if value is not None] if missing else column
        if missing < len(column) and not math.isfinite(math.fsum(present)):
            return False
    return True
