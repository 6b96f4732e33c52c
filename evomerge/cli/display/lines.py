"""Prints text for people: wrapped and coloured on a terminal, as it is in a pipe or a file."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from evomerge.core.terminal import printable

if TYPE_CHECKING:
    from rich.console import Console

_COLUMN = re.compile(r"\s*\S+(?: \S+)*?(?:\s{2,}|$)")  # a name, and blanks
_LABEL = re.compile(r"[\w.-]+: ")
_TOGETHER = re.compile(r"\[[^][ ]+, [^][ ]+\]|\d %|\d (?:s|min|h|d)\b")  # [low, high], 95 %, 3 min
_NO_BREAK = "\u00a0"
_LEAST = 20  # characters for the text behind a first column, below which it goes on at the left
_STYLES = (  # of the words that begin a message
    (re.compile(r"\s*((evomerge[ \w-]*: )?error:|failed\b)"), "bold red"),
    (re.compile(r"\s*(warning|note|overfit)\b:?"), "bold yellow"),
)
VERDICT = {True: "bold green", False: "bold yellow"}  # whether an improvement is shown


def show(text: str = "", style: str = "", stream: TextIO | None = None) -> None:
    """Print lines; on a terminal none is broken within a word, and second columns stay aligned.

    A first word such as ``warning`` has a colour of its own; ``NO_COLOR`` turns colours off.

    Args:
        text: One line or several.
        style: Of all of it, as rich names it.
        stream: Standard output without one.
    """
    stream = sys.stdout if stream is None else stream
    if not stream.isatty():
        print(printable(text), file=stream, flush=True)
        return
    console = console_of(stream)
    if hasattr(stream, "rich_proxied_file"):  # beside what `working` draws, which would be torn
        shown = [
            part for line in printable(text).split("\n") for part in wrapped(line, console.width)
        ]
        print("\n".join(shown), file=stream)
        return
    print_lines(console, text, style)


def print_lines(console: Console, text: str, style: str = "") -> None:
    """Print lines on a console; raw where it is no terminal."""
    from rich.text import Text

    for line in printable(text).split("\n"):
        lines = wrapped(line, console.width) if console.is_terminal else [line]
        shown = Text("\n".join(lines), style)
        for start, of_start in _STYLES:
            if match := start.match(line):
                shown.stylize(of_start, 0, match.end())
        console.print(shown, soft_wrap=True)


def console_of(stream: TextIO) -> Console:
    """Return a console that leaves a closed pipe to the command, as `print` does."""
    from rich.console import Console

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would end the process with a code that means our fault

    return Piped(file=stream, highlight=False)


def columns() -> int | None:
    """Return the width of the terminal that output goes to; ``None`` if it goes elsewhere."""
    return console_of(sys.stdout).width if sys.stdout.isatty() else None


@contextmanager
def working(text: str) -> Iterator[Callable[[str], None]]:
    """Show on a terminal that something is computed, and for how long by now.

    Yields:
        A function that changes the text.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False)
    with Progress(*columns, console=console_of(sys.stderr), transient=True) as progress:
        task = progress.add_task(text)
        yield lambda text: progress.update(task, description=text)


def wrapped(line: str, width: int) -> list[str]:
    """Cut a line between words, with what follows below its second column.

    >>> wrapped("phase   search, generation 3 of 12", 30)
    ['phase   search, generation 3', '        of 12']
    >>> wrapped("a_long_name   what it is for", 20)
    ['a_long_name', '  what it is for']
    """
    if len(line) <= width:
        return [line]
    margin = len(line) - len(line.lstrip())
    if margin > 4 and width - margin < _LEAST:
        line, margin = " " * 4 + line.lstrip(), 4
    column = _COLUMN.match(line)
    if column is not None and column.end() < len(line):
        if width - column.end() >= _LEAST:
            return _cut(line, width, column.end())
        rest = " " * (margin + 2) + line[column.end() :]
        return [line[: column.end()].rstrip(), *_cut(rest, width, margin + 2)]
    return _cut(line, width, margin + 2 if margin or _LABEL.match(line) else 0)


def _cut(line: str, width: int, indent: int) -> list[str]:
    whole = _TOGETHER.sub(lambda match: match[0].replace(" ", _NO_BREAK), line)
    lines = textwrap.wrap(
        whole,
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [part.replace(_NO_BREAK, " ") for part in lines]
