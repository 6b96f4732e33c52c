"""Reads sections of docstrings: a class's attributes, a function's arguments."""

from __future__ import annotations

import re
from typing import Any


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


def as_code(text: str) -> str:
    """Return a docstring's marks as Markdown has them."""
    return text.replace("``", "`")
