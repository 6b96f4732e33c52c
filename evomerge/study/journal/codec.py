"""Turns journal events into JSON and back, by the annotations of their dataclasses."""

from __future__ import annotations

import types
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from evomerge.recipe.space.dimension import Dimension
from evomerge.study.journal.events import EVENT_TYPES, Event

Document = Mapping[str, Any]  # of JSON
Converter = Callable[[Any], Any]
EventType = TypeVar("EventType")


def parse(document: Document) -> Event | None:
    """Return the event of a journal's document, which `EventCheck` has passed.

    Returns:
        ``None`` for a kind of event that this version does not know, since a newer one wrote it.
    """
    kind = EVENT_TYPES.get(document["event"])
    return None if kind is None else from_json(kind, document)


def parse_all(documents: Iterable[Document]) -> Iterator[Event]:
    """Return the events of a journal's documents, as far as this version knows them."""
    return (event for document in documents if (event := parse(document)) is not None)


def from_json(kind: Callable[..., EventType], document: Document) -> EventType:
    """Make a dataclass of a mapping; keys that it does not have are left out."""
    instance: EventType = _reader(cast(Hashable, kind))(document)
    return instance


def to_json(value: Any) -> dict[str, Any]:
    """Write a dataclass as a mapping of JSON; an event with its name first, its time last.

    A field whose default is empty (None, a text or list without content, 0, false) is left out
    while it has that default.
    """
    document = {"event": value.event_name} if isinstance(value, Event) else {}
    for name, default, write in _written(cast(Hashable, type(value))):
        content = getattr(value, name)
        if default or content != default:
            document[name] = content if write is None or content is None else write(content)
    return document


def field_types(kind: Any) -> dict[str, tuple[Any, bool]]:
    """Return each field of a dataclass: its annotation, and whether it has a default."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: (hints[field.name], _has_default(field)) for field in fields(kind)}


def _has_default(field: Field[Any]) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


@cache
def _reader(kind: Any) -> Converter:
    if kind is Dimension:
        return dimension
    converters = [(name, _from(hint)) for name, (hint, _) in field_types(kind).items()]

    def read(document: Document) -> Any:
        return kind(
            **{
                name: document[name] if convert is None else convert(document[name])
                for name, convert in converters
                if name in document
            }
        )

    return read


@cache
def _written(kind: Hashable) -> tuple[tuple[str, Any, Converter | None], ...]:
    """Return each field's name, its default, and how it is written; the time last."""
    hints = field_types(kind)
    members = [
        (field.name, field.default, _to(hints[field.name][0])) for field in fields(cast(Any, kind))
    ]
    return tuple(sorted(members, key=lambda member: member[0] == "time"))


def _from(hint: Any) -> Converter | None:
    """Return the function that reads a value of this annotation; ``None``: as JSON has it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _from(arguments[0])
    if origin in (Union, types.UnionType):
        read = next((c for one in arguments if (c := _from(one)) is not None), None)
        return read and _unless_none(read)
    if origin is tuple:
        read = _from(arguments[0])
        return tuple if read is None else _each(read, tuple)
    if origin is not None and issubclass(origin, Mapping):
        if _is_number(arguments[0]):
            return lambda mapping: {int(name): value for name, value in mapping.items()}
        read = _from(arguments[1])
        return read and _each_value(read)
    return _reader(cast(Hashable, hint)) if is_dataclass(hint) else None


def _to(hint: Any) -> Converter | None:
    """Return the function that writes a value of this annotation; ``None``: as it stands."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _to(arguments[0])
    if origin in (Union, types.UnionType):
        return next((c for one in arguments if (c := _to(one)) is not None), None)
    if origin is tuple or (origin is not None and issubclass(origin, Sequence)):
        write = _to(arguments[0])
        return list if write is None else _each(write, list)
    if origin is not None and issubclass(origin, Mapping):
        if _is_number(arguments[0]):
            return lambda mapping: {str(name): value for name, value in mapping.items()}
        write = _to(arguments[1])
        return write and _each_value(write)
    if hint is Dimension:
        return vars
    return to_json if is_dataclass(hint) else None


def _unless_none(convert: Converter) -> Converter:
    return lambda value: None if value is None else convert(value)


def _each(convert: Converter, collect: Converter) -> Converter:
    return lambda values: collect(map(convert, values))


def _each_value(convert: Converter) -> Converter:
    return lambda mapping: {name: convert(value) for name, value in mapping.items()}


def _is_number(hint: Any) -> bool:
    """Return whether a mapping's names are numbers, which JSON writes as texts."""
    return hint is int or (get_origin(hint) is Annotated and get_args(hint)[0] is int)


def dimension(document: Document) -> Dimension:
    """Return a dimension as a journal has it; an earlier version wrote fewer fields.

    Raises:
        TypeError: A field has another form.
        ValueError: The fields contradict each other.
    """
    known = {field.name for field in fields(Dimension)}
    values = {key: value for key, value in document.items() if key in known}
    values["choices"] = tuple(document["choices"])
    values["needs"] = tuple(
        tuple((str(name), tuple(suitable)) for name, suitable in clause)
        for clause in document.get("needs") or ()
    )
    layers = document.get("layers")
    if layers is not None:
        first, end = layers
        values["layers"] = (int(first), int(end))
    return Dimension(**values)
