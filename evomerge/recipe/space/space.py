"""Defines a search space: a recipe with holes. Fill the holes with a point and you have a recipe.

A hole stands where a value would: ``search`` (the range that the method declares),
``{low: 0, high: 1.5}`` (one's own), either with ``knots: 4`` (as many values, spread over depth as
a mergekit gradient) or ``per: tensor`` or ``per: component`` (as many as the models have), or
``{choice: [ties, slerp]}``; ``simplex: true`` makes the models' weights shares of 1;
``include: search`` beside a model leaves open whether it takes part. A template names no models:
``"*"`` stands for each model that it is bound to, ``"*1"`` for the first, and
``layers: {groups: 4}`` makes four blocks of equal depth out of one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge import methods
from evomerge.checkpoint import names as model_name
from evomerge.core import yaml_file
from evomerge.core.errors import UserError
from evomerge.core.html import block, table
from evomerge.recipe import nested as nesting
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.rows import Calibration, Data
from evomerge.recipe.space.activity import conditioned
from evomerge.recipe.space.dimension import Dimension, Value
from evomerge.recipe.space.groups import Tensors
from evomerge.recipe.space.holes import DocumentPath, find_holes, needs_tensors, takes_part
from evomerge.recipe.space.path import written_out
from evomerge.recipe.space.pruning import without_traces
from evomerge.recipe.space.shipped import find
from evomerge.recipe.space.simplex import shares, simplices
from evomerge.recipe.space.template import any_groups, bound, placeholders, tensors_of
from evomerge.recipe.space.unchanged import unchanged

_GROWING = ("experts", "rank", "shared", "factor")  # parameters of structures: more is larger
_SHOWN = 20  # dimensions in a notebook


class SearchSpace:
    """A recipe with holes; read-only once made.

    >>> space = SearchSpace.from_dict(
    ...     {"merge_method": "linear", "models": [
    ...         {"model": "a", "parameters": {"weight": {"low": 0, "high": 2}}},
    ...         {"model": "b", "parameters": {"weight": 1.0}}]})
    >>> [d.name for d in space.dimensions]
    ['models[a].weight']
    >>> space.fill((0.5,)).models[0].parameters["weight"]
    0.5
    """

    def __init__(
        self,
        document: Mapping[str, Any],
        where: str = "space",
        tensors: Tensors | None = None,
        left_out: int = 0,
    ):
        self.document = written_out(copy.deepcopy(dict(document)), where)
        self.where = where
        self.tensors = tensors
        self.left_out = left_out  # dimensions of tensors that no adapter changes
        self.holes = conditioned(self.document, find_holes(self.document, where, tensors))
        self.dimensions = tuple(d for hole in self.holes for d in hole.dimensions)
        self.simplices = simplices(self.document, self.holes, where) if not self.unbound else []
        if not self.unbound:
            self._check()

    def __repr__(self) -> str:
        bound = "no models yet" if self.unbound else f"{len(self.dimensions)} dimensions"
        return f"SearchSpace({self.where!r}, {bound})"

    def _repr_html_(self) -> str:
        rows = [
            (d.name, ", ".join(map(str, d.choices)) or f"[{d.low:g}, {d.high:g}]", d.start)
            for d in self.dimensions[:_SHOWN]
        ]
        if len(self.dimensions) > _SHOWN:
            rows.append(("…", f"{len(self.dimensions) - _SHOWN:,} more", ""))
        head = ["dimension", "range or choices", "start"]
        return table(rows, head, caption=repr(self)) if rows else block(repr(self))

    @classmethod
    def from_dict(cls, document: Any, where: str = "space") -> SearchSpace:
        """Make a space of plain data.

        Raises:
            UserError: A hole or anything around it is wrong; the message names its path.
        """
        document = nesting.flattened(model_name.joined(document, where), where)
        return cls(yaml_file.mapping(document, where), where)

    @classmethod
    def from_yaml(cls, file: str | Path) -> SearchSpace:
        """Read a space from a file, or one of those in search_spaces/ by its name."""
        path = find(file)
        return cls.from_dict(nesting.read(path), where=str(path))

    @property
    def unbound(self) -> bool:
        """True until models are bound to the template."""
        if self.tensors is None and needs_tensors(self.document):
            return True
        return bool(placeholders(self.document)) or any_groups(self.document)

    def bind(
        self,
        base: str | None,
        models: Sequence[str],
        dtype: str | None = None,
        seed: int | None = None,
    ) -> SearchSpace:
        """Put models into a template.

        Args:
            base: The base model; becomes base_model where the space names none.
            models: What ``"*"`` stands for.
            dtype: What the merged tensors are written in (out_dtype), unless the space says.
            seed: Of the recipe, unless the space says.

        Raises:
            UserError: The space asks for a model that is not there.
        """
        document = bound(self.document, base, list(models), self.where)
        if base is not None:
            for recipe in [document, *(document.get("merges") or {}).values()]:
                recipe.setdefault("base_model", base)
        if dtype is not None and "out_dtype" not in document:
            document["out_dtype"] = dtype
        if seed and "seed" not in document:
            document["seed"] = seed
        if not needs_tensors(document):
            return SearchSpace(document, self.where)
        of = base or document.get("base_model") or models[0]
        tensors = tensors_of(of)
        same = unchanged(document, of)
        if not any(tensors[name] for name in same):
            return SearchSpace(document, self.where, tensors)
        all_of_them = sum(len(h.dimensions) for h in find_holes(document, self.where, tensors))
        moving = {name: is_float and name not in same for name, is_float in tensors.items()}
        fewer = sum(len(h.dimensions) for h in find_holes(document, self.where, moving))
        return SearchSpace(document, self.where, moving, all_of_them - fewer)

    def with_data(self, data: Mapping[str, Data], calibration: Calibration) -> SearchSpace:
        """Give models rows wherever a method reads some, and keep those that they have.

        Args:
            data: Rows by model.
            calibration: How they are read, unless the recipe says.
        """
        document = copy.deepcopy(self.document)
        for recipe in [document, *(document.get("merges") or {}).values()]:
            if not reads_data(recipe):
                continue
            recipe["models"] = [_with_rows(entry, data) for entry in recipe.get("models", ())]
            if calibration.to_dict():
                recipe.setdefault("calibration", calibration.to_dict())
        return SearchSpace(document, self.where, self.tensors, self.left_out)

    @property
    def models_read(self) -> set[str]:
        """The models whose rows some method reads and that have none in the space yet."""
        recipes = [self.document, *(self.document.get("merges") or {}).values()]
        return {
            entry if isinstance(entry, str) else entry["model"]
            for recipe in recipes
            if reads_data(recipe)
            for entry in recipe.get("models", ())
            if isinstance(entry, str) or "data" not in entry
        }

    @property
    def most_layers(self) -> int | None:
        """Number of layers of the deepest recipe; ``None`` where none has slices."""
        ends = {"include": 0, "times": 0, "trim": 1}
        point = [
            _end(dimension, ends[dimension.parameter])
            if "path" in hole.path and dimension.parameter in ends
            else dimension.start
            for hole in self.holes
            for dimension in hole.dimensions
        ]
        slices = self.fill(point).slices
        return sum(part.length for part in slices) if slices else None

    @property
    def largest(self) -> Recipe | None:
        """The recipe of the most parameters, if a structure's settings may add some to a model."""
        name = self.document.get("merge_method")
        is_structure = name in methods.names() and methods.get(str(name)).is_structure
        dimensions = self.dimensions if is_structure else ()
        if not any(one.parameter in _GROWING for one in dimensions):
            return None
        return self.fill(
            [
                d.start if d.parameter not in _GROWING else max(d.choices, default=_end(d, 0))
                for d in dimensions
            ]
        )

    def fill(self, point: Sequence[Value]) -> Recipe:
        """Return the recipe at a point.

        Raises:
            UserError: A value lies outside its dimension, or the recipe it makes is wrong.
        """
        if len(point) != len(self.dimensions):
            raise UserError(
                f"{self.where}: expected {len(self.dimensions)} values (one per dimension), "
                f"but got {len(point)}"
            )
        for dimension, value in zip(self.dimensions, point, strict=True):
            if not dimension.contains(value):
                allowed = dimension.choices or f"[{dimension.low}, {dimension.high}]"
                raise UserError(
                    f"{self.where}: {dimension.name}: expected {allowed}, got {value!r}"
                )
        return self.with_shares(shares(self.simplices, point))

    def with_shares(self, values_of: Sequence[Value]) -> Recipe:
        """Return the recipe of these values, where those on a simplex are the shares themselves."""
        document, at = copy.deepcopy(self.document), 0
        for hole in self.holes:
            values = list(values_of[at : at + len(hole.dimensions)])
            at += len(values)
            _put(document, hole.path, hole.setting(values))
        return Recipe.from_dict(without_traces(document, self.document), self.where)

    def _check(self) -> None:
        """Refuse mistakes that every point has, and choices that make no valid recipe."""
        start = [d.start for d in self.dimensions]
        models = [hole.dimensions[0].name for hole in self.holes if takes_part(hole.path)]
        slots = {d.name for hole in self.holes if "path" in hole.path for d in hole.dimensions}
        starts = [start]
        if slots:  # one slot is like another: the largest path and the smallest
            starts += [
                [_end(d, k) if d.name in slots else d.start for d in self.dimensions]
                for k in (0, 1)
            ]
        for every in (True, False) if models else ():  # all of them, and as few as there may be
            starts.append([every if d.name in models else d.start for d in self.dimensions])
        for point in starts:
            self.fill(point)
            for i, dimension in enumerate(self.dimensions):
                for choice in () if dimension.name in slots else dimension.choices[1:]:
                    self.fill([*point[:i], choice, *point[i + 1 :]])


def _end(dimension: Dimension, k: int) -> Value:
    """Return one end of a dimension's range, or of its choices."""
    if dimension.choices:
        return dimension.choices[-k]
    end = (dimension.high, dimension.low)[k]
    return int(end) if dimension.kind == "int" else end


def reads_data(recipe: Mapping[str, Any]) -> bool:
    """Return whether a method of a recipe with holes, or one of its choices, reads rows of data."""
    listed = [recipe, *(recipe.get("blocks") or ())]
    chosen = [one.get("merge_method") for one in listed if isinstance(one, Mapping)]
    names = {
        name for one in chosen for name in (one["choice"] if isinstance(one, Mapping) else [one])
    }
    parameters = recipe.get("parameters") or {}
    known = (methods.get(name) for name in names if name in methods.names())
    return any(spec.reads_data(parameters) for spec in known)


def _with_rows(entry: Any, data: Mapping[str, Data]) -> Any:
    written = {"model": entry} if isinstance(entry, str) else entry
    rows = data.get(written["model"])
    return entry if rows is None or "data" in written else {**written, "data": rows.to_dict()}


def _put(document: Any, path: DocumentPath, value: Any) -> None:
    for part in path[:-1]:
        document = document[part]
    document[path[-1]] = value
