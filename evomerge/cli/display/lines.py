"""Prints text for people: wrapped and coloured on a terminal, as it is in a pipe or a file."""

from __future__ import annotations

import re
import sys
import textwrap
from typing import TYPE_CHECKING, TextIO

from evomerge.core.terminal import printable

if TYPE_CHECKING:
    from rich.console import Console

# A first column is a name with its blanks, or one of the words that begin a message.
_COLUMN = re.compile(r"\s*\S+(?: \S+)*?(?:\s{2,}|$)")
_LEAST = 20  # characters for the text behind a first column, below which it goes on at the left
_STYLES = (
    (re.compile(r"(evomerge: error|failed)\b"), "red"),
    (re.compile(r"(warning|note)\b"), "yellow"),
)
VERDICT = {True: "bold green", False: "bold yellow"}  # whether an improvement is shown


def show(text: str = "", style: str = "", stream: TextIO | None = None) -> None:
    """Print lines; on a terminal none is broken within a word, and second columns stay aligned.

    Colours follow from a line's first word unless `style` says one; ``NO_COLOR`` turns them off.

    Args:
        text: One line or several.
        style: Of all of it, as rich names it.
        stream: Standard output without one.
    """
    stream = sys.stdout if stream is None else stream
    if not stream.isatty():
        print(printable(text), file=stream, flush=True)
        return
    print_lines(console_of(stream), text, style)


def print_lines(console: Console, text: str, style: str = "") -> None:
    """Print lines on a console; raw where it is no terminal."""
    from rich.text import Text

    for line in printable(text).split("\n"):
        shown = "\n".join(wrapped(line, console.width)) if console.is_terminal else line
        console.print(Text(shown, style or _style(line)), soft_wrap=True)


def console_of(stream: TextIO) -> Console:
    """Return a console that leaves a closed pipe to the command, as `print` does."""
    from rich.console import Console

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would end the process with a code that means our fault

    return Piped(file=stream, highlight=False)


def wrapped(line: str, width: int) -> list[str]:
    """Cut a line between words, with what follows below its second column.

    >>> wrapped("phase   search, generation 3", 20)
    ['phase   search,', '  generation 3']
    >>> wrapped("phase   search, generation 3 of 12", 30)
    ['phase   search, generation 3', '        of 12']
    """
    column = _COLUMN.match(line)
    indent = len(line) - len(line.lstrip()) + 2
    if column is not None and column.end() < len(line) and width - column.end() >= _LEAST:
        indent = column.end()
    lines = textwrap.wrap(
        line,
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines or [line]


def _style(line: str) -> str:
    return next((style for start, style in _STYLES if start.match(line)), "")
