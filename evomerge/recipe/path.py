"""A path says which layers of which models run in which order; it is written out as slices.

    path:
      - {model: a, layers: [0, 24]}
      - {models: [a, b], times: 2, include: [true, false, …], hop: 0.8}

Each entry is a list of slots: the layers of its models in order, `times` over (Akiba 2024,
https://arxiv.org/abs/2403.13187, has T = M r of them). A slot takes part if its `include` is true.
`hop` multiplies the hidden state on its way into a slot's layer; since layers normalise their
input, that is the same as dividing what each layer adds to it by the product of all hops so far
(`checkpoint.loaded.residual`), so a path is a plain checkpoint. `trim` leaves out, between two
times, so many last layers of the one and first layers of the next: depth up-scaling (Kim 2023,
https://arxiv.org/abs/2312.15166) of 32 layers to 48 is ``{times: 2, trim: 8}``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from evomerge.checkpoint.architecture import layer_count
from evomerge.checkpoint.loaded.residual import residual_writers
from evomerge.checkpoint.opening import config_of
from evomerge.core import schema, yaml_file
from evomerge.core.errors import UserError

_LARGEST_HOP = 1e4  # and its inverse the smallest


class Slot(NamedTuple):
    """A layer of a model at its place in a path; `time` counts the entry's repetitions from 0."""

    model: str
    layer: int
    time: int


Ends = tuple[int, int | None]  # first layer and end; below 0 from the end on, None: the end


def _layers(value: Any, where: str) -> Ends:
    if value == "all":
        return 0, None
    pair = list(value) if isinstance(value, list | tuple) else []
    pair = [None if i and end == "end" else end for i, end in enumerate(pair)]
    if len(pair) != 2 or type(pair[0]) is not int or type(pair[1]) not in (int, type(None)):
        raise UserError(
            f"{where}: expected all, or [first, end] as whole numbers (below 0: from the end on; "
            f"the word end: the last one too), but got {value!r}"
        )
    return pair[0], pair[1]


def _includes(value: Any, where: str) -> tuple[bool, ...]:
    listed = value if isinstance(value, list | tuple) else [value]
    if not all(type(item) is bool for item in listed):
        raise UserError(f"{where}: expected true or false, or one for each slot, got {value!r}")
    return tuple(listed)


def _hops(value: Any, where: str) -> tuple[float, ...]:
    listed = value if isinstance(value, list | tuple) else [value]
    numbers = [n for n in listed if isinstance(n, int | float) and not isinstance(n, bool)]
    if len(numbers) < len(listed) or not all(
        1 / _LARGEST_HOP <= n <= _LARGEST_HOP for n in numbers
    ):
        raise UserError(
            f"{where}: expected a number from {1 / _LARGEST_HOP:g} to {_LARGEST_HOP:g}, or one for "
            f"each slot, got {value!r}"
        )
    return tuple(float(n) for n in numbers)


@dataclass(frozen=True)
class Stretch:
    """One entry of a path.

    Attributes:
        model: The model whose layers these are.
        models: Several in its place, each in turn.
        layers: Half-open range of layers.
        times: How often.
        trim: Layers left out at each side of a seam between two times.
        include: Whether the slots take part: one value for all, or each its own.
        hop: What the hidden state is multiplied by on its way into a slot, likewise.
    """

    model: str | None = None
    models: tuple[str, ...] = ()
    layers: Annotated[Ends, _layers] = (0, None)
    times: int = 1
    trim: int = 0
    include: Annotated[tuple[bool, ...], _includes] = (True,)
    hop: Annotated[tuple[float, ...], _hops] = (1.0,)

    @property
    def named(self) -> tuple[str, ...]:
        """Its models in order."""
        return self.models if self.model is None else (self.model,)

    def ends(self, depth: int) -> tuple[int, int]:
        """Return first layer and end in a model of so many layers."""
        first, end = self.layers
        end = depth if end is None else end
        return first + depth * (first < 0), end + depth * (end < 0)

    def slots(self, depths: Mapping[str, int]) -> Iterator[Slot]:
        """Yield its slots, given the number of layers of each model."""
        for time in range(self.times):
            for model in self.named:
                first, end = self.ends(depths[model])
                first += self.trim if time else 0
                end -= self.trim if time < self.times - 1 else 0
                yield from (Slot(model, layer, time) for layer in range(first, end))


@dataclass
class _Run:
    """Consecutive layers of a model, and what all they add is multiplied by."""

    model: str
    first: int
    end: int
    factor: float


@dataclass
class Configs:
    """The config.json of each model of a recipe, merges by that of their donor."""

    merges: Mapping[str, Any] = field(default_factory=dict)
    known: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, model: str) -> Mapping[str, Any]:
        """Return a model's config, read when first asked for."""
        if model not in self.known:
            inner = self.merges.get(model)
            if inner is None:
                self.known[model] = config_of(model)
            else:
                listed = [*(inner.get("models") or ()), *_sources(inner)]
                donor = inner.get("base_model") or (listed[0] if listed else "")
                self.known[model] = self.of(donor if isinstance(donor, str) else donor["model"])
        return self.known[model]

    def depth(self, model: str, where: str) -> int:
        """Return the number of a model's layers.

        Raises:
            UserError: Its config does not say.
        """
        inner = self.merges.get(model)
        if inner is not None and inner.get("slices"):
            ranges = [source["layer_range"] for source in _sources(inner)]
            return sum(end - first for first, end in ranges)
        depth = layer_count(self.of(model))
        if depth is None:
            raise UserError(
                f"{where}: {model}: its config.json does not say how many layers it has"
            )
        return depth


def expanded(document: Any, where: str) -> Any:
    """Return a recipe's document with the slices that its path makes, in its merges too.

    Raises:
        UserError: The path has no layers, or layers that a model lacks; or its models cannot scale
            the input of a layer.
    """
    if not isinstance(document, Mapping):
        return document
    written = document.get("merges")
    if not isinstance(written, Mapping):
        return _expanded(document, {}, where)
    merges: dict[str, Any] = {}
    for name, inner in written.items():  # each after those that it needs
        merges[name] = _expanded(inner, merges, f"{where}: merges.{name}")
    return _expanded({**document, "merges": merges}, merges, where)


def _expanded(document: Any, merges: Mapping[str, Any], where: str) -> Any:
    if not isinstance(document, Mapping) or "path" not in document:
        return document
    slices = _slices(read_path(document, where), Configs(merges), f"{where}: path")
    rest = {key: value for key, value in document.items() if key != "path"}
    return {"merge_method": "passthrough", **rest, "slices": slices}


def read_path(document: Mapping[str, Any], where: str) -> list[Stretch]:
    """Return the entries of a recipe's path, every value in its place.

    Raises:
        UserError: An entry is wrong, or the recipe has layers from elsewhere or another method.
    """
    for key in ("models", "slices", "blocks"):
        if document.get(key):
            raise UserError(f"{where}: expected a path or {key}, but got both")
    method = document.get("merge_method") or "passthrough"
    if method != "passthrough":
        raise UserError(
            f"{where}: path: expected merge_method: passthrough, but got {method}: name what is to "
            "be merged under `merges`, and run its layers"
        )
    stretches: list[Stretch] = schema.read(tuple[Stretch, ...], document["path"], where, "path")
    for i, one in enumerate(stretches):
        at = f"{where}: path[{i}]"
        if bool(one.models) == (one.model is not None):
            raise UserError(f"{at}: expected either model or models")
        if one.times < 1 or one.trim < 0:
            raise UserError(
                f"{at}: expected `times >= 1` and `trim >= 0`, but got (times={one.times}, "
                f"trim={one.trim})"
            )
    return list(stretches)


def entry_at(document: Any, where: str) -> Mapping[str, Any]:
    """Return an entry of a path that may have holes, as a mapping with known keys."""
    entry = yaml_file.present(document, where)
    yaml_file.check_keys(entry, list(Stretch.__dataclass_fields__), where)
    return entry


def slots_of(one: Stretch, configs: Configs, where: str) -> list[Slot]:
    """Return the slots of an entry.

    Raises:
        UserError: There are none, or a model has no such layer.
    """
    depths = {model: configs.depth(model, where) for model in one.named}
    seams = min(one.times - 1, 2)  # that the time in the middle has at its ends
    for model, depth in depths.items():
        first, end = one.ends(depth)
        if not 0 <= first < end <= depth:
            raise UserError(
                f"{where}: layers: `0 <= first < end <= {depth}`, the layers of {model}, must "
                f"hold, but got (first={first}, end={end})"
            )
        if end - first <= seams * one.trim:
            raise UserError(
                f"{where}: trim: it leaves out {one.trim} of {end - first} layers of {model} at a "
                f"seam, so that nothing is left of one of {one.times} times"
            )
    return list(one.slots(depths))


def _slices(stretches: Sequence[Stretch], configs: Configs, where: str) -> list[dict[str, Any]]:
    """Write the slots that take part as slices; if none does, the first slot stays."""
    slots: list[Slot] = []
    taken: list[bool] = []
    hops: list[float] = []
    for i, one in enumerate(stretches):
        at = f"{where}[{i}]"
        listed = slots_of(one, configs, at)
        slots += listed
        taken += _each(one.include, len(listed), f"{at}.include")
        hops += _each(one.hop, len(listed), f"{at}.hop")
    if not slots:
        raise UserError(f"{where}: expected at least one layer, but it has none")
    if not any(taken):
        taken[0] = True
    runs: list[_Run] = []
    scale = 1.0
    for slot, takes_part, hop in zip(slots, taken, hops, strict=True):
        if not takes_part:
            continue
        scale *= hop
        last = runs[-1] if runs else None
        if last and (last.model, last.end, last.factor) == (slot.model, slot.layer, 1 / scale):
            last.end += 1
        else:
            runs.append(_Run(slot.model, slot.layer, slot.layer + 1, 1 / scale))
    return [{"sources": [_source(run, configs)]} for run in runs]


def _each(values: Sequence[Any], count: int, where: str) -> list[Any]:
    if len(values) not in (1, count):
        raise UserError(f"{where}: expected {count} values, one for each slot, got {len(values)}")
    return list(values) * (count if len(values) == 1 else 1)


def _source(run: _Run, configs: Configs) -> dict[str, Any]:
    source = {"model": run.model, "layer_range": [run.first, run.end]}
    if run.factor == 1.0:
        return source
    cases = [{"filter": w, "value": run.factor} for w in residual_writers(configs.of(run.model))]
    return {**source, "parameters": {"scale": [*cases, {"value": 1.0}]}}


def _sources(inner: Mapping[str, Any]) -> list[Any]:
    """Return the first source of each slice of a recipe."""
    return [part["sources"][0] for part in inner.get("slices") or ()]
