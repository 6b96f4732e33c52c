"""Converts plain data to dataclasses and back; every key and value is checked by its field."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from evomerge.core import yaml_file
from evomerge.core.errors import UserError, unknown

_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def read(kind: Any, value: Any, where: str, path: str = "") -> Any:
    """Return a value of the annotated kind: dataclasses by field, tuples from lists.

    A dataclass may have a method `kind_of(value, where)`, which gives the class to make and the
    mapping to make it of. An annotation ``Annotated[kind, reader]`` is read by
    ``reader(value, where)`` instead.

    Args:
        kind: The annotation.
        value: The plain data.
        where: How messages name the document.
        path: Where in it the value is, such as ``models[0].model``.

    Raises:
        UserError: A key is unknown or missing, or a value is of another kind.
    """
    at = f"{where}: {path}" if path else where
    origin, arguments, has_fields = _parts(kind)
    if origin is Annotated:
        return arguments[1](value, at)
    if has_fields:
        return _read_fields(kind, value, where, path)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{at}: expected a list but got {value!r}")
        return tuple(
            read(arguments[0], item, where, f"{path}[{i}]") for i, item in enumerate(value)
        )
    if origin in (types.UnionType, typing.Union):
        return _read_union(arguments, value, where, path)
    if origin is Literal:
        if value not in arguments:
            raise UserError(f"{at}: {unknown('value', str(value), map(str, arguments))}")
        return value
    if origin is not None or kind is Mapping:
        document = yaml_file.mapping(value, at)
        if not arguments or arguments[1] is Any:
            return document
        return {n: read(arguments[1], item, where, _below(path, n)) for n, item in document.items()}
    if kind is Any:
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**1000 else value  # else no float holds it
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{at}: expected {_WORDS.get(kind, kind)}, but got {value!r}")
    if isinstance(value, float) and value != value:
        raise UserError(f"{at}: expected a number but got nan")
    return value


def plain(value: Any) -> Any:
    """Return plain data of a dataclass, every default shown; `read` gives it back."""
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _read_fields(kind: Any, value: Any, where: str, path: str) -> Any:
    at = f"{where}: {path}" if path else where
    if hasattr(kind, "kind_of"):
        kind, value = kind.kind_of(value, at)
    document = yaml_file.mapping(value, at)
    hints, required = _fields(kind)
    yaml_file.check_keys(document, hints, at)
    for name in required:
        if name not in document:
            raise UserError(f"{at}: expected a key '{name}'")
    return kind(
        **{
            name: read(hints[name], item, where, _below(path, name))
            for name, item in document.items()
        }
    )


def renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Return plain data with texts replaced, by `names`; keys stay as they are."""
    if isinstance(value, Mapping):
        return {key: renamed(item, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [renamed(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


@cache
def _parts(kind: Any) -> tuple[Any, tuple[Any, ...], bool]:
    """Return an annotation's origin and arguments, and whether it is a dataclass."""
    return typing.get_origin(kind), typing.get_args(kind), dataclasses.is_dataclass(kind)


@cache
def _fields(kind: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the annotation of each field, and the fields without a default."""
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = dataclasses.fields(kind)
    missing = dataclasses.MISSING
    return {f.name: hints[f.name] for f in fields}, [
        f.name for f in fields if f.default is missing and f.default_factory is missing
    ]


def _read_union(arguments: tuple[Any, ...], value: Any, where: str, path: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    problems = []
    for candidate in arguments:
        if candidate is type(None):
            continue
        try:
            return read(candidate, value, where, path)
        except UserError as error:
            problems.append(error)
    words = [_WORDS[kind] for kind in arguments if kind in _WORDS]
    named = [
        str(n) for kind in arguments if typing.get_origin(kind) is Literal for n in kind.__args__
    ]
    if words and named:
        at = f"{where}: {path}" if path else where
        raise UserError(f"{at}: expected {' or '.join(words + named)}, but got {value!r}")
    raise problems[0]


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
