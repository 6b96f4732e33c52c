"""Writes the pages that say what the code says, before the site is built from them.

    python docs/generate.py

Nothing that the code says is said again by hand, so it cannot drift: reference/ (study file,
commands, methods, optimizers, spaces, Python) and the reading list.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evomerge.core.docstrings import as_code, body, described, summary

DOCS = Path(__file__).parent


def main() -> None:
    """Write every page into docs/; git ignores them."""
    sys.path.insert(0, str(DOCS))
    import python_reference
    import reading_list

    others = {"reference/python.md": python_reference.page, "reading-list.md": reading_list.page}
    for path, page in {**PAGES, **others}.items():
        (DOCS / path).write_text(page(), encoding="utf-8")


# -- study file ------------------------------------------------------------------------------------


def study_file() -> str:
    """Every key of a study file with its kind, default and meaning."""
    from evomerge.study.config import StudyConfig

    text = (
        "# Study file\n\n"
        "One YAML file says what to search, on what, and for how long. Folders in it are relative "
        "to the file. Unknown keys are errors; `evomerge check study.yaml --config` prints it with "
        "every default.\n\n"
    )
    return text + "\n".join(_section(StudyConfig, ""))


def _section(kind: Any, path: str) -> list[str]:
    lines = [f"## {path}\n\n{in_yaml(summary(kind))}\n"] if path else []
    lines += ["| key | kind | default | what it is |", "|---|---|---|---|"]
    descriptions, hints, inner = described(kind), typing.get_type_hints(kind), []
    for entry in dataclasses.fields(kind):
        if entry.name not in descriptions and dataclasses.is_dataclass(kind.__base__):
            continue  # said in the section of what this is a kind of
        where = f"{path}.{entry.name}".lstrip(".")
        part = _dataclass_in(hints[entry.name])
        if part is not None:
            inner.append((part, where))
        shown = f"[`{entry.name}`](#{anchor(where)})" if part else f"`{entry.name}`"
        words = in_yaml(descriptions[entry.name]).replace("|", "\\|")
        lines.append(f"| {shown} | {_kind(hints[entry.name])} | {_default(entry)} | {words} |")
    lines.append("")
    for part, where in inner:
        lines += _section(part, where)
        for subclass in part.__subclasses__():
            lines += _section(subclass, f"{where} with {next(iter(described(subclass)))}")
    return lines


def anchor(heading: str) -> str:
    """The address that the table of contents gives to a heading."""
    return re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-")


def _dataclass_in(kind: Any) -> Any:
    kinds = [kind, *typing.get_args(kind)]
    return next((part for part in kinds if dataclasses.is_dataclass(part)), None)


def _kind(kind: Any) -> str:
    names = {
        "str": "text",
        "int": "whole number",
        "float": "number",
        "bool": "true or false",
        "NoneType": "null",
        "Any": "anything",
    }
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_kind(part) for part in arguments)
    if origin is tuple:
        return (
            "list" if _dataclass_in(arguments[0]) is not None else f"list of {_kind(arguments[0])}"
        )
    if origin is not None or dataclasses.is_dataclass(kind):
        return "mapping"
    name = getattr(kind, "__name__", str(kind))
    return names.get(name, "mapping" if name == "Mapping" else name)


def in_yaml(text: str) -> str:
    """Python's words for nothing, yes and no as YAML has them."""
    for python, yaml in (("None", "null"), ("True", "true"), ("False", "false")):
        text = text.replace(f"`{python}`", f"`{yaml}`")
    return text


def _yaml_value(value: Any) -> str:
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def _default(entry: Any) -> str:
    if entry.default is not dataclasses.MISSING:
        value = entry.default
        if value is None:
            return "null"
        if isinstance(value, bool):
            return str(value).lower()
        return "none" if value in ((), "") else f"`{value}`"
    if entry.default_factory is dataclasses.MISSING:
        return "**required**"
    return "" if dataclasses.is_dataclass(entry.default_factory) else "none"


# -- commands --------------------------------------------------------------------------------------


def commands() -> str:
    """Every command with its arguments."""
    from evomerge.cli.parser import make_parser

    lines = [
        "# Commands\n",
        "Exit codes: 0 success; 1 internal error; 2 user error, in one line; 130 interrupted and "
        "resumable.\n",
    ]
    subcommands = next(
        a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction)
    )
    helps = {action.dest: action.help or "" for action in subcommands._choices_actions}
    for name, command in subcommands.choices.items():
        usage = " ".join(command.format_usage().removeprefix("usage: ").split())
        lines += [f"## {name}\n", f"{helps[name][:1].upper()}{helps[name][1:]}.\n"]
        lines += [f"    {usage}\n"]
        rows = [_argument(action) for action in command._actions if action.dest != "help"]
        if rows:
            lines += ["| argument | |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def _argument(action: argparse.Action) -> str:
    metavar = action.metavar or "/".join(map(str, action.choices or [])) or action.dest.upper()
    name = ", ".join(action.option_strings) or str(metavar)
    if action.option_strings and action.nargs != 0:
        name += f" {metavar}"
    return f"| `{name}` | {action.help or ''} |".replace("  |", " |")


# -- methods, optimizers, spaces -------------------------------------------------------------------


def methods() -> str:
    """Every registered merge method."""
    from evomerge import methods as registry

    lines = [
        "# Merge methods\n",
        "A method is one pure function of tensors; its annotations are its search space. "
        "`evomerge methods NAME` prints the same. ¹ Not in mergekit, and so not exported to it.\n",
        "| method | merges | parameters | what it does |",
        "|---|---|---|---|",
    ]
    specs = sorted([*registry.registered(), *registry.structures()], key=lambda spec: spec.name)
    for spec in specs:
        mark = "" if spec.in_mergekit else " ¹"
        base = "base + " if spec.takes_base and not spec.base_optional else ""
        count = f"{base}{registry.Count(spec.min_models, spec.max_models)}"
        names = ", ".join(p.name for p in spec.parameters)
        link = f"[`{spec.name}`](#{anchor(spec.name)}){mark}"
        lines.append(f"| {link} | {count} | {names} | {_cell(spec.summary)} |")
    lines.append("")
    for spec in specs:
        lines += _method(spec, registry)
    return "\n".join(lines)


def _method(spec: Any, registry: Any) -> list[str]:
    base = " besides a base" if spec.takes_base else ""
    optional = ", which it does without if there is none" if spec.base_optional else ""
    count = registry.Count(spec.min_models, spec.max_models)
    lines = [
        f"## {spec.name}\n",
        f"{_cell(spec.summary)}\n",
        f"{body(spec.function)}\n",
        f"Merges {count}{base}{optional}. {linked(spec.reference)}\n",
    ]
    if spec.parameters:
        lines += ["| parameter | valid | searched in | default | |", "|---|---|---|---|---|"]
    for p in spec.parameters:
        searched = "" if p.low is None else f"[{p.low:g}, {p.high:g}]"
        each = " (one per model)" if p.per_model else ""
        default = "**required**" if p.required else f"`{_yaml_value(p.default)}`"
        lines.append(
            f"| `{p.name}`{each} | {_cell(str(p.expected))} | {searched} | {default} "
            f"| {_cell(p.doc or '')} |"
        )
    return [*lines, ""]


def linked(reference: str) -> str:
    """A reference whose address is a link."""
    return re.sub(r"(https?://[^\s,;]+)", r"<\1>", reference)


def _cell(text: str) -> str:
    return as_code(" ".join(text.split())).replace("|", "\\|").replace("<", "&lt;")


def optimizers() -> str:
    """Every optimizer with its options."""
    from evomerge.optimizers import registry

    lines = [
        "# Optimizers\n",
        "`search: {optimizer: NAME, options: {…}}`. Each is asked for a generation and told its "
        "fitness; the same seed and the same answers give the same questions, which is how a "
        "study resumes.\n",
    ]
    for name in sorted(registry.names()):
        kind, fixed = type(registry.create(name)), registry.fixed_options(name)
        lines += [f"## {name}\n", f"{summary(kind)}\n"]
        descriptions = described(kind, "Args")
        rows = [
            f"| `{p.name}` | `{_yaml_value(p.default)}` "
            f"| {in_yaml(_cell(descriptions.get(p.name, '')))} |"
            for p in inspect.signature(kind).parameters.values()
            if p.default is not inspect.Parameter.empty and p.name not in fixed
        ]
        if rows:
            lines += ["| option | default | |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def spaces() -> str:
    """Every shipped search space, whole."""
    from evomerge.recipe.space.shipped import shipped

    lines = [
        "# Search spaces\n",
        "A space is a recipe with holes; these name no models and ship with evomerge. "
        '`"*"` stands for each of the study\'s models, `"*1"` for the first.\n',
    ]
    for name, file in shipped().items():
        lines += [f"## {name}\n", f"```yaml\n{file.read_text(encoding='utf-8').rstrip()}\n```\n"]
    return "\n".join(lines)


PAGES: dict[str, Callable[[], str]] = {
    "reference/study-file.md": study_file,
    "reference/commands.md": commands,
    "reference/methods.md": methods,
    "reference/optimizers.md": optimizers,
    "reference/spaces.md": spaces,
}

if __name__ == "__main__":
    main()
