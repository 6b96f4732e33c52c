"""A hole leaves a value of a recipe open; dimensions fill it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evomerge import methods
from evomerge.core import yaml_file
from evomerge.core.errors import UserError, unknown
from evomerge.recipe.space.dimension import Dimension

DocumentPath = tuple[str | int, ...]  # the keys and indices that lead to a value
_RANGE_KEYS = ("low", "high", "knots", "log", "initial")


@dataclass(frozen=True)
class Hole:
    """A hole by its path in the document, and the dimensions that fill it (several for knots)."""

    path: DocumentPath
    dimensions: tuple[Dimension, ...]
    gradient: bool


def is_choice(value: Any) -> bool:
    """Say whether a value is a hole of the form {choice: [...]}."""
    return isinstance(value, dict) and "choice" in value


def _is_range(value: Any) -> bool:
    return isinstance(value, dict) and ("low" in value or "high" in value or "knots" in value)


def find_holes(document: dict[str, Any], where: str) -> list[Hole]:
    """Return every hole of a document, in the order in which they stand."""
    holes: list[Hole] = []

    def walk(value: Any, path: DocumentPath) -> None:
        if value == "search" or is_choice(value) or _is_range(value):
            holes.append(_with_parts(document, _hole(document, value, path, where)))
        elif isinstance(value, dict):
            for key, item in value.items():
                if not (key == "layers" and isinstance(item, dict)):
                    walk(item, (*path, key))
        elif isinstance(value, list):
            for i, item in enumerate(value):
                walk(item, (*path, i))

    walk(document, ())
    return _uniquely_named(holes)


def _uniquely_named(holes: list[Hole]) -> list[Hole]:
    """Return the holes with a number behind every name that another dimension has too."""
    seen: dict[str, int] = {}
    result = []
    for hole in holes:
        dimensions = []
        for dimension in hole.dimensions:
            seen[dimension.name] = seen.get(dimension.name, 0) + 1
            count = seen[dimension.name]
            suffix = "" if count == 1 else f"~{count}"
            gradient = dimension.gradient and dimension.gradient + suffix
            name = dimension.name + suffix
            dimensions.append(replace(dimension, name=name, gradient=gradient))
        result.append(replace(hole, dimensions=tuple(dimensions)))
    return result


def _hole(document: dict[str, Any], value: Any, path: DocumentPath, where: str) -> Hole:
    name = _label(document, path)
    inside = "parameters" in path[:-1]
    if not inside and takes_part(path):
        return Hole(path, (_participation(value, name, where),), False)
    if not inside and path[-1] != "merge_method":
        raise UserError(
            f"{where}: {name}: only parameters and merge_method can be searched, "
            "and whether to include a model"
        )
    if is_choice(value):
        choices = value["choice"]
        value = yaml_file.mapping(value, f"{where}: {name}")
        yaml_file.check_keys(value, ("choice", "initial"), f"{where}: {name}")
        if not isinstance(choices, list) or not choices:
            raise UserError(f"{where}: {name}: expected a list of choices, got {choices!r}")
        if not inside:
            for choice in choices:
                if choice not in methods.names():
                    raise UserError(
                        f"{where}: {name}: {unknown('merge method', str(choice), methods.names())}"
                    )
        initial = value.get("initial")
        dimension = Dimension(name, "categorical", choices=tuple(choices), initial=initial)
        if initial is not None and not dimension.contains(initial):
            raise UserError(f"{where}: {name}: initial {initial!r} is not among {choices}")
        return Hole(path, (dimension,), False)
    if not inside:
        raise UserError(f"{where}: {name}: expected {{choice: [...]}} but got {value!r}")
    return _range_hole(document, {} if value == "search" else value, path, name, where)


def takes_part(path: DocumentPath) -> bool:
    """Say whether a path leads to ``include`` of one of a recipe's models."""
    above = path[2:] if path[0] == "merges" else path
    return len(above) == 3 and (above[0], above[2]) == ("models", "include")


def _participation(value: Any, name: str, where: str) -> Dimension:
    """Read a model's ``include``: ``search``, or a choice of true and false with an initial."""
    options = {} if value == "search" else yaml_file.mapping(value, f"{where}: {name}")
    yaml_file.check_keys(options, ("choice", "initial"), f"{where}: {name}")
    choices, initial = options.get("choice", [True, False]), options.get("initial", True)
    if sorted(map(repr, choices if isinstance(choices, list) else [])) != ["False", "True"]:
        raise UserError(f"{where}: {name}: expected search or {{choice: [true, false]}}")
    if type(initial) is not bool:
        raise UserError(f"{where}: {name}: expected initial to be true or false, got {initial!r}")
    return Dimension(name, "categorical", choices=(True, False), initial=initial)


def _range_hole(
    document: dict[str, Any], value: dict[str, Any], path: DocumentPath, name: str, where: str
) -> Hole:
    value = yaml_file.mapping(value, f"{where}: {name}")
    yaml_file.check_keys(value, _RANGE_KEYS, f"{where}: {name}")
    parameter_name = next(str(path[i + 1]) for i, part in enumerate(path) if part == "parameters")
    parameter = _declared(method_scope(document, path), parameter_name, f"{where}: {name}")
    if parameter.kind in ("bool", "choice"):
        if value:
            raise UserError(
                f"{where}: {name}: it is {parameter.expected}, not in a range: "
                "write search, or {choice: [...]}"
            )
        return Hole(path, (Dimension(name, "categorical", choices=parameter.choices),), False)
    low, high = value.get("low", parameter.low), value.get("high", parameter.high)
    initial, knots = value.get("initial"), value.get("knots")
    for key, number in (("low", low), ("high", high), ("initial", initial)):
        if number is not None and not _is_finite(number):
            raise UserError(f"{where}: {name}: expected {key} to be a number but got {number!r}")
    if low is None or high is None or not low <= high:
        raise UserError(
            f"{where}: {name}: `low <= high` must hold, but got (low={low}, high={high})"
        )
    hard_low, hard_high = parameter.valid_low, parameter.valid_high
    if (hard_low is not None and low < hard_low) or (hard_high is not None and high > hard_high):
        raise UserError(
            f"{where}: {name}: expected [{low}, {high}] to lie inside [{hard_low}, {hard_high}]"
        )
    if initial is not None and not low <= initial <= high:
        raise UserError(f"{where}: {name}: initial {initial} lies outside [{low}, {high}]")
    if knots is not None and (type(knots) is not int or not 1 <= knots <= 1000):
        raise UserError(f"{where}: {name}: expected knots to be a whole number >= 1, got {knots!r}")
    if type(value.get("log", False)) is not bool:
        raise UserError(f"{where}: {name}: expected log to be true or false")
    if value.get("log") and low <= 0:
        raise UserError(f"{where}: {name}: `low > 0` must hold for a logarithmic range, got {low}")
    whole = parameter.kind == "int"

    def dimension(label: str) -> Dimension:
        cast: Callable[[float], float] = int if whole else float
        return Dimension(
            label,
            "int" if whole else "float",
            cast(low),
            cast(high),
            bool(value.get("log")),
            initial=None if initial is None else cast(initial),
        )

    if knots is None:
        return Hole(path, (dimension(name),), False)
    return Hole(path, tuple(dimension(f"{name}[{k}]") for k in range(knots)), True)


def _is_finite(number: Any) -> bool:
    if isinstance(number, bool) or not isinstance(number, int | float):
        return False
    return abs(number) < 1e300  # a float holds it, and its product with another too


def _declared(scope: dict[str, Any], name: str, where: str) -> methods.ParameterSpec:
    """Return a parameter as the method, or the first choice of method that has it, declares it."""
    chosen: Any = scope.get("merge_method")
    listed = chosen["choice"] if is_choice(chosen) else [chosen]
    candidates = [str(one) for one in listed] if isinstance(listed, list) else []
    for candidate in candidates:
        if candidate not in methods.names():
            raise UserError(f"{where}: {unknown('merge method', str(candidate), methods.names())}")
        for parameter in methods.get(candidate).parameters:
            if parameter.name == name:
                return parameter
    known = {p.name for c in candidates for p in methods.get(c).parameters}
    raise UserError(f"{where}: {unknown('parameter of ' + ', '.join(candidates), name, known)}")


def method_scope(document: dict[str, Any], path: DocumentPath) -> dict[str, Any]:
    """Return the mapping whose merge_method governs a path: its block, or the recipe."""
    if path and path[0] == "merges":
        return method_scope(document["merges"][path[1]], path[2:])
    if path and path[0] == "blocks":
        block = document["blocks"][path[1]]
        if "merge_method" in block:
            return dict(block)
    return document


def model_of(document: dict[str, Any], path: DocumentPath) -> str | None:
    """Return the model that a path's parameters belong to, if they belong to one."""
    value: Any = document
    for part in path:
        value = value[part]
        if isinstance(value, dict) and "model" in value:
            return str(value["model"])
    return None


def _with_parts(document: dict[str, Any], hole: Hole) -> Hole:
    """Return the hole, each of whose dimensions says which part of the recipe it belongs to."""
    parameter, model, block, layers = str(hole.path[-1]), None, None, None
    value: Any = document
    for i, part in enumerate(hole.path):
        value = value[part]
        if part == "parameters":
            parameter = str(hole.path[i + 1])
        if not isinstance(part, int) or not isinstance(value, dict):
            continue
        if "model" in value:
            model = _key(value, "models", part)
        elif hole.path[i - 1] == "blocks":
            block = _key(value, "blocks", part)
            layers = value.get("layers")
    # one value of a list, which is a gradient that has other holes or numbers beside this one
    listed = hole.path[-1] if "parameters" in hole.path else None
    group, dimensions = _group(document, hole.path), []
    for i, dimension in enumerate(hole.dimensions):
        knot, gradient = (i, hole.path) if hole.gradient else (listed, hole.path[:-1])
        is_knot = isinstance(knot, int)
        dimensions.append(
            replace(
                dimension,
                parameter=parameter,
                model=model,
                block=block,
                layers=_span(layers),
                gradient=_label(document, gradient) if is_knot else None,
                knot=knot if isinstance(knot, int) else None,
                group=group,
            )
        )
    return replace(hole, dimensions=tuple(dimensions))


def _span(layers: Any) -> tuple[int, int] | None:
    """Return a block's layers; ``None`` where they are not written as they should be."""
    is_fine = isinstance(layers, list) and len(layers) == 2
    return tuple(layers) if is_fine and all(type(end) is int for end in layers) else None


def _label(document: dict[str, Any], path: DocumentPath, knots: bool = True) -> str:
    """Return a path in words: ``blocks[0:3,attention].models[expert-a].weight``."""
    words: list[str] = []
    value: Any = document
    for i, part in enumerate(path):
        value = value[part]
        if isinstance(part, str):
            words += [] if part in ("parameters", "value") else [part]
        elif words:
            key = _key(value, words[-1], part)
            if knots or key != str(part) or "parameters" not in path[:i]:
                words[-1] += f"[{key}]"
    return ".".join(words)


def _group(document: dict[str, Any], path: DocumentPath) -> str:
    """Return a path in words without layers and knots: ``[attention].models[expert-a].weight``."""
    if path[0] != "blocks" or not isinstance(path[1], int):
        return _label(document, path, knots=False)
    block = document["blocks"][path[1]]
    key = _key({**block, "layers": None}, "blocks", path[1])
    rest = _label(block, path[2:], knots=False)
    return rest if key == str(path[1]) and block.get("layers") else f"[{key}].{rest}"


def _key(value: Any, word: str, index: int) -> str:
    """Return what replaces an index in a name: a model, layers and components, or a filter."""
    if not isinstance(value, dict):
        return str(index)
    if "model" in value:
        return Path(str(value["model"])).name
    if word == "blocks":
        layers, components = value.get("layers"), value.get("components")
        span = ":".join(map(str, layers)) if isinstance(layers, list) else ""
        listed = components if isinstance(components, list) else [components or ""]
        named = "+".join(map(str, listed))
        return ",".join(filter(None, [span, named])) or str(index)
    return str(value.get("filter") or index)
