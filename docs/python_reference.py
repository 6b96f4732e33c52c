"""Writes reference/python.md from the public names, their signatures and their docstrings."""

from __future__ import annotations

import inspect
import re
import types
from typing import Any

from evomerge.core.docstrings import as_code, body, described, summary

_FACTORY = re.compile(r"<factory>|<.* at 0x\w+>|<built-in function \w+>")


def page() -> str:
    """Every public name of `evomerge`."""
    import evomerge as em

    lines = [
        "# Python\n",
        "`import evomerge as em`. Imports are lazy: a name costs its own module alone. Mistakes "
        "are `em.UserError`, one line each. [Use it from Python](../how-to/python.md) shows how.\n",
    ]
    for name in sorted(em.__all__, key=str.lower):
        value = getattr(em, name)
        if inspect.isclass(value):
            lines += _class(name, value)
        elif callable(value):
            lines += _callable(f"em.{name}", value, "##")
        elif inspect.ismodule(value):
            lines += [f"## em.{name}\n", _text(value)]
            for member in value.__all__:
                lines += _callable(f"em.{name}.{member}", getattr(value, member), "###")
    return "\n".join(lines)


def _class(name: str, kind: Any) -> list[str]:
    if issubclass(kind, Exception):
        return [f"## em.{name}\n", _text(kind)]
    lines = _callable(f"em.{name}", kind, "##")
    for member, raw in vars(kind).items():
        if member.startswith("_") or not (getattr(raw, "__doc__", None) or "").strip():
            continue
        if isinstance(raw, property) or hasattr(raw, "attrname"):
            lines.append(f"**`{member}`**: {summary(raw)}\n")
        elif isinstance(raw, types.FunctionType | classmethod | staticmethod):
            lines += _callable(f"{name}.{member}", getattr(kind, member), "###")
    return lines


def _callable(name: str, value: Any, mark: str) -> list[str]:
    lines = [f"{mark} {name}\n", f"```text\n{signature(name, value)}\n```\n", _text(value)]
    for section in ("Args", "Attributes"):
        rows = [
            f"| `{argument}` | {words.replace('|', chr(92) + '|')} |"
            for argument, words in described(value, section).items()
        ]
        if rows:
            lines += [f"| {'argument' if section == 'Args' else 'attribute'} | |", "|---|---|"]
            lines += [*rows, ""]
    for section in ("Returns", "Raises"):
        match = re.search(rf"^{section}:\n((?:    .*\n?)+)", inspect.getdoc(value) or "", re.M)
        if match:
            words = " ".join(match[1].split())
            lines += [f"*{section}*: {as_code(words)}\n"]
    return lines


def signature(name: str, value: Any) -> str:
    """The call, one argument a line where it is long.

    >>> signature("f", lambda a, *, b=1: 0)
    'f(a, *, b=1)'
    """
    call = inspect.signature(value)
    parameters = [p for p in call.parameters.values() if p.name not in ("self", "cls")]
    words: list[str] = []
    for i, parameter in enumerate(parameters):
        if parameter.kind is parameter.KEYWORD_ONLY:
            before = parameters[i - 1].kind if i else parameter.POSITIONAL_OR_KEYWORD
            if before not in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL):
                words.append("*")
        words.append(_parameter(parameter))
    returns = _annotation(call.return_annotation)
    tail = f" -> {returns}" if returns and not inspect.isclass(value) else ""
    line = f"{name}({', '.join(words)}){tail}"
    return line if len(line) <= 90 else f"{name}(\n    " + ",\n    ".join(words) + f",\n){tail}"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    kind = _annotation(parameter.annotation)
    text = f"{stars}{parameter.name}" + (f": {kind}" if kind else "")
    if parameter.default is parameter.empty:
        return text
    default = _FACTORY.sub("...", repr(parameter.default))
    return f"{text} = {default}" if kind else f"{text}={default}"


def _annotation(value: Any) -> str:
    if value is inspect.Signature.empty:
        return ""
    return value if isinstance(value, str) else str(getattr(value, "__name__", value))


def _text(value: Any) -> str:
    """The docstring up to its sections."""
    return f"{summary(value)}\n\n{body(value)}\n"
