"""Writes small HTML tables for notebooks; every text in them is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


def table(rows: Iterable[Sequence[object]], head: Sequence[str] = (), caption: str = "") -> str:
    """Return a table of texts.

    >>> table([("a<b", 1)], head=["name", "value"])
    '<table><thead><tr><th>name</th><th>value</th></tr></thead><tr><td>a&lt;b</td><td>1</td></tr></table>'
    """
    above = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    if head:
        above += f"<thead><tr>{_cells('th', head)}</tr></thead>"
    body = "".join(f"<tr>{_cells('td', row)}</tr>" for row in rows)
    return f"<table>{above}{body}</table>"


def block(text: str) -> str:
    """Return a text as it is, in a fixed-width face."""
    return f"<pre>{html.escape(text)}</pre>"


def _cells(tag: str, values: Iterable[object]) -> str:
    return "".join(f"<{tag}>{html.escape(str(value))}</{tag}>" for value in values)
