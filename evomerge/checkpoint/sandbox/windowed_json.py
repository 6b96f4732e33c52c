"""Reads long JSON files through a window, so that none is in memory as a whole.

Python's own scanner does the work. Of an array or object it takes as many members at once as end
before a comma of the window: a piece that parses between brackets is whole members, since a comma
inside of a string or of a deeper value leaves that open.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from evomerge.checkpoint.files.document import parts_of, unique

WINDOW = 2**18  # bytes
LARGEST = 2**21  # characters of one value that is no long array or object
_TRIES = 3  # commas that a piece may end at, from the last one on
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder(object_pairs_hook=unique)


class LongJson:
    """Reads a JSON text from its beginning, by callers that know its structure.

    Every method raises ValueError where the text is not JSON, or not of the expected type.
    """

    def __init__(self, stream: BinaryIO, most_parts: int):
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._window = ""
        self._at = 0
        self._passed = 0  # bytes before the window
        self._ended = False
        self._singly = False  # no piece of this window parses
        self._parts_left, self._most_parts = most_parts, most_parts

    @property
    def position(self) -> int:
        """The number of bytes read so far."""
        return self._passed + len(self._window[: self._at].encode())

    def value(self) -> Any:
        """Return the next value, which must fit in the window."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._window, self._at)
                if end < len(self._window) or self._ended:  # else a number may go on
                    self._at = end
                    return value
            except RecursionError:
                raise ValueError("it is nested too deeply") from None
            except ValueError:
                if self._ended:
                    raise
            if len(self._window) - self._at > LARGEST:
                raise ValueError(f"one value is broken, or longer than {LARGEST:,} characters")
            self._more()

    def fields(self) -> Iterator[str]:
        """Yield every key of the next object; the caller reads its value before going on."""
        seen: set[str] = set()
        self._take("{")
        closed = self.peek() == "}"
        while not closed:
            key = self.value()
            if not isinstance(key, str) or key in seen:
                raise ValueError(f"key {str(key)[:80]!r} appears twice, or is no text")
            seen.add(key)
            self._take(":")
            yield key
            closed = self._take(",}") == "}"
        if not seen:
            self._take("}")

    def items(self) -> Iterator[list[Any]]:
        """Yield the elements of the next array in lists of any length."""
        yield from self._members("[", "]")

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield the entries of the next object in dictionaries of any size.

        A key may be in two of them; the caller checks that.
        """
        yield from self._members("{", "}")

    def peek(self) -> str:
        """Return the next character that is not white space; an empty string at the end."""
        while True:
            space = _SPACE.match(self._window, self._at)
            assert space is not None
            self._at = space.end()
            if self._at < len(self._window) or self._ended:
                return self._window[self._at : self._at + 1]
            self._more()

    def _members(self, opening: str, closing: str) -> Iterator[Any]:
        self._take(opening)
        closed = self.peek() == closing
        if closed:
            self._take(closing)
        while not closed:
            yield self._next_members(opening, closing)
            closed = self._take("," + closing) == closing

    def _next_members(self, opening: str, closing: str) -> Any:
        if not self._ended and len(self._window) - self._at < WINDOW // 4:
            self._more()
        end = len(self._window)
        for _ in range(0 if self._singly else _TRIES):
            end = self._window.rfind(",", self._at, end)
            if end < 0:
                break
            try:
                members = _DECODER.decode(f"{opening}{self._window[self._at : end]}{closing}")
            except (ValueError, RecursionError):
                continue
            if members:
                self._at = end
                return members
        self._singly = True
        first = self.value()
        if opening == "[":
            return [first]
        if not isinstance(first, str):
            raise ValueError("a key is not text")
        self._take(":")
        return {first: self.value()}

    def _take(self, expected: str) -> str:
        character = self.peek()
        if not character or character not in expected:
            at = f"{character!r} at byte {self.position}" if character else "its end"
            raise ValueError(f"expected {' or '.join(map(repr, expected))} but got {at}")
        self._at += 1
        return character

    def _more(self) -> None:
        data = self._stream.read(WINDOW)
        self._parts_left -= parts_of(data)
        if self._parts_left < 0:
            raise ValueError(f"it has more than {self._most_parts:,} parts")
        self._passed += len(self._window[: self._at].encode())
        self._window = self._window[self._at :] + self._decoder.decode(data, final=not data)
        self._at, self._ended, self._singly = 0, not data, False
