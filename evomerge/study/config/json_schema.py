"""Writes the JSON schema of a study file, for editors, from the classes that read it."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from evomerge.core.docstrings import described, summary
from evomerge.core.variables import VARIABLE
from evomerge.study.config.study import StudyConfig

_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}
_FILLED = {"type": "string", "pattern": VARIABLE}  # ${NAME}, whatever it will stand for
_NAMED = {"model": {"type": "string"}, "adapter": {"type": "string"}}
_ROWS = {
    "tasks": {
        "description": "Tasks of the study whose search items are rows of this model's own.",
        "type": "array",
        "items": {"type": "string"},
    },
    "data": {
        "description": "Or a file of such rows, JSON lines.",
        "anyOf": [{"type": "string"}, {"type": "object"}],
    },
}


def _model(properties: Mapping[str, Any]) -> dict[str, Any]:
    named = {"type": "object", "properties": properties, "required": ["model"]}
    return {"anyOf": [{"type": "string"}, {**named, "additionalProperties": False}]}


_MODEL, _MODEL_WITH_ROWS = _model(_NAMED), _model({**_NAMED, **_ROWS})


def json_schema(optimizers: typing.Iterable[str] = (), spaces: typing.Iterable[str] = ()) -> Any:
    """Return the schema of a study file as plain data (JSON Schema 2020-12).

    Args:
        optimizers: Names that an editor proposes for `search.optimizer`; others stay valid.
        spaces: Names that an editor proposes for `space`; others stay valid.
    """
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "evomerge study",
        **_object(StudyConfig),
    }
    properties = schema["properties"]
    for key, value in (("base_model", _MODEL), ("models", _list_of(_MODEL_WITH_ROWS))):
        properties[key] = {"description": properties[key]["description"], **value}
    _propose(properties["space"], spaces)
    search = properties["search"]["properties"]
    _propose(search["optimizer"], optimizers)
    then = next(part for part in search["then"]["anyOf"] if part["type"] == "object")
    _propose(then["properties"]["optimizer"], optimizers)
    return schema


def _object(kind: Any) -> dict[str, Any]:
    """The schema of a dataclass: its fields with their words, and no others."""
    hints = typing.get_type_hints(kind, include_extras=True)
    words: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        words |= described(base)
    properties, required = {}, []
    for entry in dataclasses.fields(kind):
        properties[entry.name] = {"description": words[entry.name], **_value(hints[entry.name])}
        if entry.default is not dataclasses.MISSING:
            default = entry.default
            properties[entry.name]["default"] = list(default) if default == () else default
        elif entry.default_factory is dataclasses.MISSING:
            required.append(entry.name)
    return {
        "description": summary(kind),
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _value(kind: Any) -> dict[str, Any]:
    """The schema of one annotation, as `core.schema.read` takes it."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return {}  # a reader of its own decides
    if dataclasses.is_dataclass(kind):
        return _variants(kind) if hasattr(kind, "kind_of") else _object(kind)
    if origin is tuple:
        return _list_of(_value(arguments[0]))
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": _without_doubles([_value(part) for part in arguments])}
    if origin is Literal:
        return {"anyOf": [{"enum": list(arguments)}, _FILLED]}
    if origin is not None or kind is Mapping:
        values = _value(arguments[1]) if arguments else {}
        return {"type": "object", "additionalProperties": values or True}
    if kind is type(None):
        return {"type": "null"}
    if kind is str:
        return {"type": "string"}
    return {"anyOf": [{"type": _TYPES[kind]}, _FILLED]} if kind in _TYPES else {}


def _variants(kind: Any) -> dict[str, Any]:
    """The schema of a class with variants: a name, the class itself, or one with its own key."""
    variants = [_object(kind)]
    for subclass in kind.__subclasses__():
        schema = _object(subclass)
        schema["required"] = [*schema["required"], next(iter(described(subclass)))]
        variants.append(schema)
    return {"anyOf": [{"type": "string"}, *variants]}


def _list_of(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _without_doubles(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The alternatives of a union, those of inner unions among them, each once."""
    flat: list[dict[str, Any]] = []
    for part in parts:
        for one in part["anyOf"] if set(part) == {"anyOf"} else [part]:
            if one not in flat:
                flat.append(one)
    return flat


def _propose(value: dict[str, Any], names: typing.Iterable[str]) -> None:
    """Let an editor propose these names for a text, beside any other."""
    alternatives = value.pop("anyOf", [{"type": value.pop("type", "string")}])
    value["anyOf"] = [{"enum": list(names)}, *alternatives]
