"""Reads the holes of one entry of a path, and makes their dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evomerge.core import yaml_file
from evomerge.core.errors import UserError
from evomerge.recipe.path import Slot
from evomerge.recipe.space.dimension import Clause, Dimension
from evomerge.recipe.space.labels import DocumentPath

_HOP = (0.5, 2.0)  # where a hole gives no range: a doubling is as far as a halving
_WHOLE = ("times", "trim")
_MOST_TIMES = 16


class OpenValue(NamedTuple):
    """A hole of a path by its place in the document, and its dimensions: one, or one a slot."""

    path: DocumentPath
    dimensions: tuple[Dimension, ...]
    by_slot: bool


def is_plain(value: Any) -> bool:
    """Say whether a value of an entry has no hole."""
    if isinstance(value, list):
        return all(map(is_plain, value))
    return value is None or value == "all" or not (value == "search" or isinstance(value, Mapping))


def of_entry(
    entry: Mapping[str, Any], place: DocumentPath, label: str, where: str
) -> list[OpenValue]:
    """Return the holes that an entry's slots depend on: ends of `layers`, `times`, `trim`."""
    result = []
    layers = entry.get("layers")
    for k, end in enumerate(layers if isinstance(layers, list) else ()):
        if not is_plain(end):
            low, high, initial = _whole(end, f"{where}: layers[{k}]", 0, None)
            name = f"{label}.layers[{k}]"
            dimension = _dimension(name, entry, "layers", low, high, initial)
            result.append(OpenValue((*place, "layers", k), (dimension,), by_slot=False))
    if result and isinstance(layers, list):
        first = layers[0] if is_plain(layers[0]) else layers[0].get("high")
        end = layers[1] if is_plain(layers[1]) else layers[1].get("low")
        if not first < end:
            raise UserError(
                f"{where}: layers: expected every first layer below every end, but got {first} and "
                f"{end}"
            )
    times: tuple[Clause, ...] = ()
    for key in _WHOLE:
        if is_plain(entry.get(key)):
            continue
        least, most = (1, _MOST_TIMES) if key == "times" else (0, None)
        low, high, initial = _whole(entry[key], f"{where}: {key}", least, most)
        dimension = _dimension(f"{label}.{key}", entry, key, low, high, initial)
        if key == "times":
            times = (((dimension.name, tuple(range(2, high + 1))),),)
        elif times:  # without a seam nothing is trimmed
            dimension = _dimension(f"{label}.{key}", entry, key, low, high, initial, times)
        result.append(OpenValue((*place, key), (dimension,), by_slot=False))
    return result


def _dimension(
    name: str,
    entry: Mapping[str, Any],
    key: str,
    low: int,
    high: int,
    initial: int,
    needs: tuple[Clause, ...] = (),
) -> Dimension:
    model = entry.get("model")
    return Dimension(
        name,
        "int",
        low,
        high,
        initial=initial,
        needs=needs,
        parameter=key,
        model=Path(model).name if isinstance(model, str) else None,
        group=name,
    )


def _whole(value: Any, where: str, least: int, most: int | None) -> tuple[int, int, int]:
    """Read ``{low: 0, high: 8, initial: 4}``, all of them whole numbers."""
    options = yaml_file.mapping(value, where)
    yaml_file.check_keys(options, ("low", "high", "initial"), where)
    low, high = options.get("low"), options.get("high")
    initial = options.get("initial", low)
    if type(low) is not int or type(high) is not int or type(initial) is not int:
        raise UserError(f"{where}: expected low, high and initial as whole numbers, got {value!r}")
    if not least <= low <= initial <= high or (most is not None and high > most):
        upper = "" if most is None else f" <= {most}"
        raise UserError(
            f"{where}: `{least} <= low <= initial <= high{upper}` must hold, but got (low={low}, "
            f"initial={initial}, high={high})"
        )
    return low, high, initial


def included(
    entry: Mapping[str, Any],
    slots: Sequence[Slot],
    labels: Sequence[str],
    starts: Sequence[bool],
    place: DocumentPath,
    where: str,
) -> OpenValue | None:
    """Return the hole of an entry's `include`; ``None`` if it is none."""
    value = entry.get("include")
    if is_plain(value):
        return None
    options = {} if value == "search" else yaml_file.mapping(value, f"{where}: include")
    yaml_file.check_keys(options, ("initial",), f"{where}: include")
    initial = options.get("initial")
    if initial is not None and type(initial) is not bool:
        raise UserError(f"{where}: include: expected initial to be true or false, got {initial!r}")
    dimensions = tuple(
        Dimension(
            f"{label}.include",
            "categorical",
            choices=(True, False),
            initial=start if initial is None else initial,
            parameter="include",
            model=Path(slot.model).name,
            layers=(slot.layer, slot.layer + 1),
            group=f"path[{Path(slot.model).name}].include",
        )
        for slot, label, start in zip(slots, labels, starts, strict=True)
    )
    return OpenValue((*place, "include"), dimensions, by_slot=True)


def hops(
    entry: Mapping[str, Any],
    slots: Sequence[Slot],
    labels: Sequence[str],
    names: Sequence[str] | None,
    place: DocumentPath,
    where: str,
) -> OpenValue:
    """Return the hole of an entry's `hop`; `names` are those of its slots' `include`."""
    options = {} if entry["hop"] == "search" else yaml_file.mapping(entry["hop"], f"{where}: hop")
    yaml_file.check_keys(options, ("low", "high", "log", "initial"), f"{where}: hop")
    low, high = options.get("low", _HOP[0]), options.get("high", _HOP[1])
    initial = options.get("initial", 1.0)
    log = options.get("log", "low" not in options and "high" not in options)
    numbers = (low, initial, high)
    if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        raise UserError(f"{where}: hop: expected low, high and initial as numbers, got {options}")
    if type(log) is not bool or not 0 < low <= initial <= high:
        raise UserError(
            f"{where}: hop: `0 < low <= initial <= high` must hold, but got (low={low}, "
            f"initial={initial}, high={high}, log={log})"
        )
    dimensions = tuple(
        Dimension(
            f"{label}.hop",
            low=float(low),
            high=float(high),
            log=log,
            initial=float(initial),
            needs=() if names is None else (((names[i], (True,)),),),
            parameter="hop",
            model=Path(slot.model).name,
            layers=(slot.layer, slot.layer + 1),
            group=f"path[{Path(slot.model).name}].hop",
        )
        for i, (slot, label) in enumerate(zip(slots, labels, strict=True))
    )
    return OpenValue((*place, "hop"), dimensions, by_slot=True)
