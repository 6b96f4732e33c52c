"""Makes text safe for any terminal: letters that it lacks, and names that hold its commands."""

from __future__ import annotations

import codecs
import io
import re
import unicodedata
from typing import TextIO

_PLAIN = {"λ": "lambda", "σ": "sigma", "×": "x", "−": "-", "–": "-", "…": "...", "→": "->"}
_PLAIN |= {"Σ": "sum", "§": "section ", "²": "^2", "½": "1/2"}
_PLAIN |= {"≥": ">=", "≤": "<=", "±": "+-", "·": "-", "•": "*", "’": "'", "“": '"', "”": '"'}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def print_anywhere(stream: TextIO) -> None:
    """Let a stream write any text: what its encoding lacks appears in plain letters."""
    codecs.register_error("evomerge.plain", _plain)
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="evomerge.plain")


def printable(text: str) -> str:
    """A text without control characters, which could move a cursor or rewrite a line.

    >>> printable("model\x1b[2J")
    'model?[2J'
    """
    return _CONTROL.sub("?", text)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Return letters for those that cannot be encoded, and where to go on."""
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end]
    return "".join(map(_letters, missing)), error.end


def _letters(letter: str) -> str:
    simple = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    return _PLAIN.get(letter) or simple or "?"
