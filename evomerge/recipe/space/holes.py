"""A hole leaves a value of a recipe open; dimensions fill it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evomerge import methods
from evomerge.core import yaml_file
from evomerge.core.errors import UserError, unknown
from evomerge.recipe.data import Block
from evomerge.recipe.space import labels
from evomerge.recipe.space.dimension import Dimension, Value
from evomerge.recipe.space.groups import PER, Group, Tensors, filters, grouped
from evomerge.recipe.space.labels import DocumentPath as DocumentPath
from evomerge.recipe.space.parts import placed
from evomerge.recipe.space.path import has_path, open_values
from evomerge.recipe.space.simplex import opened

_RANGE_KEYS = ("low", "high", "knots", "per", "log", "initial", "simplex")


@dataclass(frozen=True)
class Hole:
    """A hole by its path in the document, and the dimensions that fill it.

    Attributes:
        path: Where it stands.
        dimensions: One; several for `knots` and `per`, and for the slots of a path.
        gradient: Whether their values are a list: knots of a gradient over depth, or slots.
        groups: With `per`, the tensors that each dimension holds for.
        others: With `per`, whether there are tensors whose value has no effect: they take the first
            dimension's, so that a recipe of one value everywhere still is one.
        simplex: Whether its values are softmaxed with those of the other models (`simplex`).
    """

    path: DocumentPath
    dimensions: tuple[Dimension, ...]
    gradient: bool
    groups: tuple[Group, ...] = ()
    others: bool = False
    simplex: bool = False

    def setting(self, values: Sequence[Value]) -> Any:
        """Return what fills it at a point: a value, a gradient, or values with filters."""
        if not self.groups:
            return list(values) if self.gradient else values[0]
        rest = [{"value": values[0]}] if self.others else []
        return [*filters(self.groups, values), *rest]


def is_choice(value: Any) -> bool:
    """Say whether a value is a hole of the form {choice: [...]}."""
    return isinstance(value, dict) and "choice" in value


def _is_range(value: Any) -> bool:
    return isinstance(value, dict) and not value.keys().isdisjoint(
        ("low", "high", "knots", "per", "simplex")
    )


def needs_tensors(document: Any) -> bool:
    """Say whether a document has holes with `per`, which need the names of a model's tensors."""
    if isinstance(document, dict):
        return (_is_range(document) and "per" in document) or any(
            map(needs_tensors, document.values())
        )
    return isinstance(document, list) and any(map(needs_tensors, document))


def find_holes(document: dict[str, Any], where: str, tensors: Tensors | None = None) -> list[Hole]:
    """Return every hole of a document, in the order in which they stand.

    Args:
        document: A recipe with holes.
        where: How messages name it.
        tensors: The tensors that holes with `per` have values for; ``None``: not known yet, and
            such holes have no dimensions.
    """
    holes: list[Hole] = []

    def walk(value: Any, path: DocumentPath) -> None:
        if value == "search" or is_choice(value) or _is_range(value):
            hole = _hole(document, value, path, where)
            if "per" in (value if isinstance(value, dict) else ()):
                hole = _per(document, hole, value["per"], tensors or {}, where)
            placed_there = placed(document, path, hole.dimensions, hole.gradient, hole.groups)
            holes.append(replace(hole, dimensions=placed_there))
        elif isinstance(value, dict):
            for key, item in value.items():
                if key == "path" and has_path(value):
                    holes.extend(Hole(*one) for one in open_values(document, path, where))
                elif not (key == "layers" and isinstance(item, dict)):
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
    name = labels.label(document, path)
    inside = "parameters" in path[:-1]
    if not inside and takes_part(path):
        return Hole(path, (_participation(value, name, where),), False)
    if path[0] in ("tokenizer", "tokenizer_source"):
        raise UserError(
            f"{where}: {name}: it cannot be searched, since all candidates are scored on the same "
            "tokens of every item: build every parent with one tokenizer first, and search over "
            "those"
        )
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
    if "simplex" in value:
        value = opened(value, path, f"{where}: {name}")
    simplex = bool(value.get("simplex"))
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
    if knots is not None and "per" in value:
        raise UserError(f"{where}: {name}: expected knots or per, but got both")
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
        return Hole(path, (dimension(name),), False, simplex=simplex)
    knot_dimensions = tuple(dimension(f"{name}[{k}]") for k in range(knots))
    return Hole(path, knot_dimensions, True, simplex=simplex)


def _per(document: dict[str, Any], hole: Hole, per: Any, tensors: Tensors, where: str) -> Hole:
    """A hole with a dimension for each group of tensors, instead of the one that it has."""
    (one,) = hole.dimensions
    at = f"{where}: {one.name}"
    if per not in PER:
        raise UserError(f"{at}: per: {unknown('choice', str(per), PER)}")
    if "slices" in hole.path or any(isinstance(part, int) for part in hole.path[-1:]):
        raise UserError(f"{at}: per: expected a parameter of models or blocks, not of slices")
    if "value" in hole.path:
        raise UserError(f"{at}: per: expected no filter beside it: it makes one for each tensor")
    block = _block_at(document, hole.path)
    groups = grouped(per, tensors, block)
    if tensors and not groups:
        raise UserError(
            f"{at}: per: {per}: the block covers no tensor of the model, or none that its adapters "
            "change: leave the block out"
        )
    dimensions = tuple(replace(one, name=f"{one.name}[{group.label}]") for group in groups)
    others = not all(tensors.values())
    return replace(hole, dimensions=dimensions, groups=tuple(groups), others=others)


def _block_at(document: dict[str, Any], path: DocumentPath) -> Block | None:
    """Return the block that a path leads into, as far as its layers and components go."""
    start = 2 if path[0] == "merges" else 0
    if path[start] != "blocks":
        return None
    value: Any = document
    for part in path[: start + 2]:
        value = value[part]
    components = value.get("components")
    listed = [components] if isinstance(components, str) else components
    return Block(
        layers=labels.span(value.get("layers")),
        components=None if listed is None else tuple(listed),
        merge_method="",
    )


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
