"""Holes of a path: slots that take part or not, their hops, and layers, times and trim of entries.

Every slot of an entry with ``include: search`` is a dimension, and every slot of one with an open
`hop` is another, active only while the slot takes part (Akiba 2024,
https://arxiv.org/abs/2403.13187). The search starts with the layers of the path's first model, once
and in order, where the path leaves them a choice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.core.errors import UserError
from evomerge.recipe.path import Configs, Slot, entry_at, expanded, read_path, slots_of
from evomerge.recipe.space.labels import DocumentPath
from evomerge.recipe.space.path_entry import OpenValue, hops, included, is_plain, of_entry


def has_path(document: Any) -> bool:
    """Say whether a recipe with holes has a path."""
    return isinstance(document, Mapping) and isinstance(document.get("path"), list)


def is_template(document: Any, key: str = "") -> bool:
    """Say whether a document names no models yet, but has placeholders for them."""
    if isinstance(document, Mapping):
        return any(is_template(value, name) for name, value in document.items())
    if isinstance(document, list):
        return any(is_template(value, key) for value in document)
    return key in ("model", "models") and isinstance(document, str) and document.startswith("*")


def written_out(document: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a document whose paths give layers as numbers, in its merges too.

    A template comes back as it is.
    """
    if is_template(document):
        return dict(document)
    merges = {
        name: _written_out(inner, document, f"{where}: merges.{name}")
        for name, inner in (document.get("merges") or {}).items()
    }
    result = {**document, "merges": merges} if merges else dict(document)
    return dict(_written_out(result, result, where))


def _written_out(document: Any, whole: Mapping[str, Any], where: str) -> Any:
    if not has_path(document):
        return document
    configs = _configs(whole, where)
    entries = []
    for i, one in enumerate(document["path"]):
        at = f"{where}: path[{i}]"
        entry = dict(entry_at(one, at))
        entry["layers"] = _numbered(entry, configs, at)
        if entry.get("trim") == "search":
            entry["trim"] = {"low": 0, "high": _most_trimmed(entry, at)}
        entries.append(entry)
    return {**document, "path": entries}


def open_values(whole: Mapping[str, Any], at: DocumentPath, where: str) -> list[OpenValue]:
    """Return the holes of a path that was written out; none of a template's.

    Args:
        whole: The whole document.
        at: Where in it the recipe with the path stands: nowhere, or under `merges`.
        where: How messages name the document.

    Raises:
        UserError: A hole is none, or leaves no layers.
    """
    if is_template(whole):
        return []
    document: Any = whole
    for part in at:
        document = document[part]
    prefix = "".join(f"{part}." for part in at)
    named = _Names(prefix)
    configs = _configs(whole, where)
    result = []
    slots = []
    for i, entry in enumerate(document["path"]):
        here = f"{where}: {prefix}path[{i}]"
        of_whole = of_entry(entry, (*at, "path", i), f"{prefix}path[{i}]", here)
        by_slot = [key for key in ("include", "hop") if not is_plain(entry.get(key))]
        if of_whole and by_slot:
            raise UserError(
                f"{here}: {by_slot[0]}: each slot has a value of its own, so expected layers, "
                "times and trim as numbers beside it"
            )
        result += of_whole
        if not of_whole:
            slots.append((i, entry, _closed_slots(entry, by_slot, configs, here)))
    starts = _starts(
        [(slot, entry.get("include")) for _, entry, listed in slots for slot in listed]
    )
    for i, entry, listed in slots:
        first, starts = starts[: len(listed)], starts[len(listed) :]
        labels = [named.of(slot) for slot in listed]
        place, here = (*at, "path", i), f"{where}: {prefix}path[{i}]"
        taking_part = included(entry, listed, labels, first, place, here)
        names = None if taking_part is None else [one.name for one in taking_part.dimensions]
        result += [] if taking_part is None else [taking_part]
        if not is_plain(entry.get("hop")):
            result.append(hops(entry, listed, labels, names, place, here))
    return result


def _closed_slots(
    entry: Mapping[str, Any], by_slot: list[str], configs: Configs, where: str
) -> list[Slot]:
    """Return the slots of an entry whose holes are values of slots alone."""
    closed = {key: value for key, value in entry.items() if key not in by_slot}
    (stretch,) = read_path({"path": [closed]}, where)
    return slots_of(stretch, configs, where)


def path_depth(document: Mapping[str, Any], model: str, where: str) -> int:
    """Return the number of layers of a model or merge that a document's path names."""
    return _configs(document, where).depth(model, where)


def path_values(document: Mapping[str, Any], model: str, depth: int) -> list[Any] | None:
    """Return values of `open_values` that run one model's layers in order; ``None`` if none do.

    Args:
        document: A document with a path, written out.
        model: The model.
        depth: The number of its layers.
    """
    values: list[Any] = []
    expected = 0
    configs = _configs(document, "space")
    for entry in document["path"]:
        whole = [dimension for hole in of_entry(entry, (), "", "") for dimension in hole.dimensions]
        if any(d.parameter == "layers" or (d.parameter == "times" and d.low > 1) for d in whole):
            return None
        values += [1 if d.parameter == "times" else d.start for d in whole]
        by_slot = [key for key in ("include", "hop") if not is_plain(entry.get(key))]
        listed = _closed_slots(entry, [*by_slot, *(d.parameter for d in whole)], configs, "space")
        taken = []
        for slot in listed:
            fits = (slot.model, slot.layer) == (model, expected)
            if "include" not in by_slot and not fits:
                return None
            taken.append(fits)
            expected += fits
        values += taken if "include" in by_slot else []
        values += [1.0] * len(listed) if "hop" in by_slot else []
    return values if expected == depth else None


def _numbered(entry: Mapping[str, Any], configs: Configs, where: str) -> Any:
    """Return an entry's layers as numbers from 0 on, beside holes; models must agree in them."""
    layers = entry.get("layers", "all")
    holes = isinstance(layers, list) and [end for end in layers if not is_plain(end)]
    closed = {k: v for k, v in entry.items() if k in ("model", "models")}
    (stretch,) = read_path({"path": [closed if holes else {**closed, "layers": layers}]}, where)
    depths = {configs.depth(model, where) for model in stretch.named}
    if len(depths) > 1:
        raise UserError(
            f"{where}: expected models of one depth, but they have "
            f"{', '.join(map(str, sorted(depths)))} layers: write an entry for each"
        )
    (depth,) = depths
    if not holes:
        return list(stretch.ends(depth))
    plain = [depth if end == "end" else end for end in layers]
    return [end + depth if isinstance(end, int) and end < 0 else end for end in plain]


def _most_trimmed(entry: Mapping[str, Any], where: str) -> int:
    """Return how many layers each side of a seam may lose, where `trim` gives no range."""
    first, end = entry["layers"]
    if not (isinstance(first, int) and isinstance(end, int)):
        raise UserError(f"{where}: trim: expected a range, since `layers` is open")
    return max(0, (end - first - 1) // 2)


class _Names:
    """Names slots by model and layer; one that comes again gets a number."""

    def __init__(self, prefix: str):
        self._prefix = prefix
        self._seen: Counter[str] = Counter()

    def of(self, slot: Slot) -> str:
        name = f"{Path(slot.model).name}.{slot.layer}"
        self._seen[name] += 1
        count = self._seen[name]
        return f"{self._prefix}path[{name}{'' if count == 1 else f'~{count}'}]"


def _configs(whole: Mapping[str, Any], where: str) -> Configs:
    """Return the configs of a document's models; of merges, by paths whose depth is one number."""
    merges = {
        name: {**inner, "path": [_closed(entry) for entry in inner["path"]]}
        if has_path(inner)
        else inner
        for name, inner in (whole.get("merges") or {}).items()
    }
    return Configs(expanded({"merges": merges}, where)["merges"] if merges else {})


def _closed(entry: Any) -> Any:
    """Return an entry of a path with the values at which a search starts."""
    if not isinstance(entry, Mapping):
        return entry
    return {key: value for key, value in entry.items() if is_plain(value)}


def _starts(slots: Sequence[tuple[Slot, Any]]) -> list[bool]:
    """Say which slots the first model's layers are, each once and in order."""
    expected = 0
    result = []
    for slot, include in slots:
        fits = slot.model == slots[0][0].model and slot.layer == expected
        takes_part = fits if not is_plain(include) else include is not False
        expected += fits and takes_part
        result.append(bool(takes_part))
    return result
