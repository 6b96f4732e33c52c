"""Converts plain data to dataclasses and back; every key and value is checked by its field."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from evomerge.core import yaml_file
from evomerge.core.errors import UserError, unknown


def read(kind: Any, value: Any, where: str) -> Any:
    """A value of the annotated kind: dataclasses by field, tuples from lists."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        if hasattr(kind, "kind_of"):
            kind, value = kind.kind_of(value)
        document = yaml_file.mapping(value, where)
        fields = {f.name: f for f in dataclasses.fields(kind)}
        yaml_file.check_keys(document, fields, where)
        hints = typing.get_type_hints(kind)
        for name, entry in fields.items():
            missing = entry.default is dataclasses.MISSING
            if name not in document and missing and entry.default_factory is dataclasses.MISSING:
                raise UserError(f"{where}: expected a key '{name}'")
        return kind(
            **{name: read(hints[name], item, f"{where}: {name}") for name, item in document.items()}
        )
    if origin is tuple:
        if not isinstance(value, list):
            raise UserError(f"{where}: expected a list but got {value!r}")
        return tuple(read(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin in (types.UnionType, typing.Union):
        return _read_union(arguments, value, where)
    if origin is Literal:
        if value not in arguments:
            raise UserError(f"{where}: {unknown('value', str(value), map(str, arguments))}")
        return value
    if origin is not None or kind in (Mapping, Any):
        return yaml_file.mapping(value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        words = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
        raise UserError(f"{where}: expected {words.get(kind, kind)}, but got {value!r}")
    if isinstance(value, float) and value != value:
        raise UserError(f"{where}: expected a number but got nan")
    return value


def plain(value: Any) -> Any:
    """Plain data of a dataclass, every default shown; `read` gives it back."""
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _read_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    problems = []
    for candidate in arguments:
        if candidate is type(None):
            continue
        try:
            return read(candidate, value, where)
        except UserError as error:
            problems.append(error)
    raise problems[0]
