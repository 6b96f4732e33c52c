"""Writes reading-list.md from reading_list.yaml: each system on the lists, and what it is here.

Every name in the table is looked up where it is registered, so that a sentence cannot outlive what
it speaks of.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import re
import typing
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("reading_list.yaml")
STATES = {
    "here": "yes",
    "partly": "partly",
    "not here": "no",
    "out of scope": "out of scope",
    "reading": "to read",
}
_SPAN = re.compile(r"`([^`]+)`")


def table() -> Mapping[str, list[Mapping[str, str]]]:
    """Read the rows of each section."""
    from evomerge.core import yaml_file

    return dict(yaml_file.read(TABLE))


def page() -> str:
    """Write the whole page."""
    sections = table()
    rows = [row for section in sections.values() for row in section]
    counts = Counter(row["state"] for row in rows)
    said = ", ".join(f"{counts[state]} {word}" for state, word in STATES.items())
    lines = [
        "---\nhide: [toc]\n---\n# The reading list\n",
        f"The {len(rows)} systems, papers and lists that four public reading lists on model "
        "merging name, and what each is here: the name to use, or what comes nearest "
        f"({said}). Years are those of the first version.\n",
    ]
    for section, section_rows in sections.items():
        lines += [f"## {section}\n", "| system | here | |", "|---|---|---|"]
        lines += [_row(row) for row in section_rows]
        lines.append("")
    return "\n".join(lines)


def _row(row: Mapping[str, str]) -> str:
    source, _, address = row["source"].rpartition("http")
    name = f"[{row['name']}](http{address})" if source or address.startswith("s:") else row["name"]
    words = source.rstrip(", ") or ("" if address.startswith("s:") else row["source"])
    shown = f"{name}{', ' if words else ''}{words}"
    sentence = re.sub(_SPAN, lambda span: linked(span[1]), row["text"])
    return f"| {shown} | {STATES[row['state']]} | {sentence} |".replace("  ", " ")


def linked(span: str) -> str:
    """Write a name with a link to its place in the reference.

    >>> linked("method:ties"), linked("optimizer:adam.loss=entropy")
    ('[`ties`](reference/methods.md#ties)', '[`loss: entropy`](reference/optimizers.md#adam)')

    Raises:
        LookupError: evomerge has no such thing.
    """
    kind, colon, name = span.partition(":")
    if not colon or kind not in _KINDS:
        raise LookupError(f"`{span}`: expected one of {', '.join(_KINDS)}, a colon and a name")
    shown, address = _KINDS[kind](name)
    return f"[`{shown}`]({address})" if address else f"`{shown}`"


# -- where each kind of name is registered ---------------------------------------------------------


def _method(name: str) -> tuple[str, str]:
    from evomerge import methods

    method, _, parameter = name.partition(".")
    spec = methods.get(method)
    if parameter and parameter not in {p.name for p in spec.parameters}:
        raise LookupError(f"{method} has no parameter {parameter}")
    return parameter or method, f"reference/methods.md#{method}"


def _optimizer(name: str) -> tuple[str, str]:
    from evomerge.optimizers import registry

    optimizer, _, option = name.partition(".")
    key, _, value = option.partition("=")
    if key:
        registry.create(optimizer, **{key: int(value) if value.isdigit() else value})
    elif optimizer not in registry.names():
        raise LookupError(f"there is no optimizer {optimizer}")
    return f"{key}: {value}" if key else optimizer, f"reference/optimizers.md#{optimizer}"


def _space(name: str) -> tuple[str, str]:
    from evomerge.recipe.space.shipped import find

    find(name)
    return name, f"reference/spaces.md#{name}"


def _command(words: str) -> tuple[str, str]:
    from evomerge.cli.parser import make_parser

    name, *rest = words.split()
    commands = next(a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    actions = commands.choices[name]._actions
    known = {word for action in actions for word in (*action.option_strings, *_choices(action))}
    if not known.issuperset(rest):
        raise LookupError(f"evomerge {name} has no {', '.join(sorted({*rest} - known))}")
    return f"evomerge {words}", f"reference/commands.md#{name}"


def _choices(action: argparse.Action) -> list[str]:
    return [str(choice) for choice in action.choices or ()]


def _key(path: str) -> tuple[str, str]:
    from evomerge.study.config import StudyConfig

    kind: Any = StudyConfig
    *sections, last = path.split(".")
    for section in sections:
        kind = _in(kind, section)
    _in(kind, last)
    anchor = "".join(sections)
    return path, f"reference/study-file.md{'#' * bool(anchor)}{anchor}"


def _in(kind: Any, key: str) -> Any:
    """Return the dataclass under a key, or the key's own kind."""
    hints = typing.get_type_hints(kind)
    if key not in hints:
        raise LookupError(f"{kind.__name__} has no key {key}")
    parts = (hints[key], *typing.get_args(hints[key]))
    return next((part for part in parts if dataclasses.is_dataclass(part)), hints[key])


def _recipe(key: str) -> tuple[str, str]:
    from evomerge.recipe.recipe import Recipe

    if key not in {field.name for field in dataclasses.fields(Recipe)}:
        raise LookupError(f"a recipe has no key {key}")
    return key, ""


def _anchor(name: str) -> tuple[str, str]:
    from evomerge.study.config import StudyConfig
    from evomerge.study.phases.anchors import anchors

    document = {
        "base_model": "base",
        "models": ["one", "two"],
        "space": "global_linear",
        "evaluate": {"tasks": ["any"]},
    }
    names = [a.name for a in anchors(StudyConfig.from_dict(document, Path(), "study"))]
    if name not in names:
        raise LookupError(f"no anchor is called {name}: {names}")
    return name, ""


def _python(path: str) -> tuple[str, str]:
    module, _, name = path.rpartition(".")
    getattr(importlib.import_module(module), name)
    return path, ""


_KINDS: dict[str, Callable[[str], tuple[str, str]]] = {
    "method": _method,
    "optimizer": _optimizer,
    "space": _space,
    "command": _command,
    "key": _key,
    "recipe": _recipe,
    "anchor": _anchor,
    "python": _python,
}
