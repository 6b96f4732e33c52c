"""Derives from the events' annotations the shapes that `event_check` holds journals to.

A shape is a type of JSON (`float` takes whole numbers too, `object` anything), None, a tuple of
alternatives, [shape], {shape of the names: shape}, `KeyShapes`, or one of `Known`.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from evomerge.recipe.space.dimension import Dimension
from evomerge.study.journal.codec import field_types
from evomerge.study.journal.event_marks import Keys, Known
from evomerge.study.journal.events import EVENT_TYPES


class KeyShapes(tuple[tuple[str, bool, Any], ...]):
    """The keys of a mapping: (key, whether it must be there, shape)."""

    __slots__ = ()


# The other fields of a dimension came later; `codec.dimension` refuses what they cannot be.
_DIMENSION = {"name": str, "kind": str, "low": float, "high": float, "log": bool, "choices": list}


def shape_of(hint: Any) -> Any:
    """Return the shape of a field with this annotation."""
    origin, arguments = get_origin(hint), get_args(hint)
    if isinstance(hint, Keys):
        return _keys((key, True, kind) for key, kind in hint.types.items())
    if origin is Annotated:
        constraint = arguments[1]
        return constraint if isinstance(constraint, Known) else shape_of(constraint)
    if origin is NotRequired:
        return shape_of(arguments[0])
    if hint is Any:
        return object
    if hint is types.NoneType:
        return None
    if origin in (Union, types.UnionType):
        return tuple(map(shape_of, arguments))
    if origin is Literal:
        return str
    if origin is not None and issubclass(origin, Mapping):
        names, values = map(shape_of, arguments)
        return dict if values is object else {names: values}
    if origin is not None and issubclass(origin, Sequence):
        return list if arguments[0] is Any else [shape_of(arguments[0])]
    if hint is Dimension:
        return _keys((key, True, kind) for key, kind in _DIMENSION.items())
    if is_typeddict(hint):
        members = get_type_hints(hint, include_extras=True).items()
        return _keys((key, get_origin(kind) is not NotRequired, kind) for key, kind in members)
    if is_dataclass(hint):
        fields = field_types(hint).items()
        return _keys((name, not has_default, kind) for name, (kind, has_default) in fields)
    return hint


def _keys(members: Iterable[tuple[str, bool, Any]]) -> KeyShapes:
    return KeyShapes((key, is_needed, shape_of(kind)) for key, is_needed, kind in members)


EVENTS = {name: shape_of(kind) for name, kind in EVENT_TYPES.items()}
