"""Reads sections of docstrings: a class's attributes, a function's arguments."""

from __future__ import annotations

import inspect
import re
from typing import Any

_SECTION = r"^(?:>>>|Args:|Returns:|Raises:|Attributes:)"


def described(kind: Any, section: str = "Attributes") -> dict[str, str]:
    """Return the words of each entry of a docstring's section, by name; ``{x}`` marks become code.

    Args:
        kind: A class or function.
        section: Which section: ``Attributes`` or ``Args``.

    >>> class A:
    ...     '''A thing.
    ...
    ...     Attributes:
    ...         size: How large,
    ...             in rows.
    ...         name: ``None`` for none.
    ...     '''
    >>> described(A)
    {'size': 'How large, in rows.', 'name': '`None` for none.'}
    """
    text = (kind.__doc__ or "").partition(f"{section}:\n")[2]
    descriptions: dict[str, str] = {}
    indent = len(text) - len(text.lstrip())
    for line in text.splitlines():
        if not line.strip():
            break
        entry = re.match(rf" {{{indent}}}(\w+): (.*)", line)
        if entry:
            descriptions[entry[1]] = entry[2]
        elif descriptions:
            descriptions[list(descriptions)[-1]] += f" {line.strip()}"
    return {name: as_code(words) for name, words in descriptions.items()}


def summary(kind: Any) -> str:
    """Return a docstring's first paragraph on one line.

    >>> summary(summary)
    "Return a docstring's first paragraph on one line."
    """
    return as_code(" ".join((kind.__doc__ or "").partition("\n\n")[0].split()))


def body(kind: Any) -> str:
    """Return a docstring as Markdown, without its first paragraph, its sections and examples.

    A paragraph that ends as no sentence does is a formula, and stands as it is.
    """
    text = (inspect.getdoc(kind) or "").partition("\n\n")[2]
    text = re.split(_SECTION, text, maxsplit=1, flags=re.M)[0]
    paragraphs = [part for part in re.split(r"\n\s*\n", text.strip("\n")) if part.strip()]
    return "\n\n".join(
        as_code(part) if part.rstrip().endswith((".", ":")) else f"```text\n{part}\n```"
        for part in paragraphs
    )


def as_code(text: str) -> str:
    """Return a docstring's marks as Markdown has them."""
    return text.replace("``", "`")
