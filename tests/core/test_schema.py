"""Plain data becomes dataclasses strictly, and every mistake is named by its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from evomerge.core import schema
from evomerge.core.errors import UserError


def _even(value: Any, where: str) -> int:
    if value % 2:
        raise UserError(f"{where}: expected an even number")
    return int(value)


@dataclass(frozen=True)
class Part:
    name: str
    size: float = 1.0

    @classmethod
    def kind_of(cls, value: Any, where: str) -> tuple[type[Part], Any]:
        del where
        return cls, {"name": value} if isinstance(value, str) else value


@dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...]
    by_name: Mapping[str, Part] = field(default_factory=dict)
    mode: Literal["fast", "slow"] = "fast"
    count: Annotated[int, _even] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def test_values_are_read_by_their_fields_annotations() -> None:
    document = {
        "parts": ["a", {"name": "b", "size": 2}],
        "by_name": {"c": {"name": "c"}},
        "count": 4,
        "options": {"x": [1, None]},
    }
    whole = schema.read(Whole, document, "file")
    assert whole == Whole(
        (Part("a"), Part("b", 2.0)), {"c": Part("c")}, count=4, options={"x": [1, None]}
    )
    assert type(whole.parts[1].size) is float
    assert schema.read(Whole, schema.plain(whole), "file") == whole


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "file: expected a mapping of names to values, but got []"),
        ({}, "file: expected a key 'parts'"),
        ({"parts": [], "modes": 1}, "file: unknown key 'modes': did you mean 'mode'"),
        ({"parts": "a"}, "file: parts: expected a list but got 'a'"),
        ({"parts": [{"size": 1}]}, "file: parts[0]: expected a key 'name'"),
        ({"parts": [{"name": 1}]}, "file: parts[0].name: expected text, but got 1"),
        ({"parts": [{"name": "a", "size": True}]}, "file: parts[0].size: expected a number, but"),
        (
            {"parts": [{"name": "a", "size": 10**400}]},
            "file: parts[0].size: expected a number, but",
        ),
        (
            {"parts": [{"name": "a", "size": float("nan")}]},
            "file: parts[0].size: expected a number",
        ),
        ({"parts": [], "by_name": {"c": 3}}, "file: by_name.c: expected a mapping of names"),
        ({"parts": [], "mode": "fats"}, "file: mode: unknown value 'fats': did you mean 'fast'"),
        ({"parts": [], "count": 3}, "file: count: expected an even number"),
        ({"parts": [], "options": {1: 2}}, "file: options: expected a mapping of names to values"),
    ],
)
def test_a_mistake_is_named_by_its_place(document: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        schema.read(Whole, document, "file")
    assert str(caught.value).startswith(message)
