"""Encodes, decodes and checks a journal's lines: one event is one frame.

A frame is ``<crc32, 8 hex digits> <payload bytes> <payload: JSON in ASCII>`` and a newline. JSON in
ASCII holds no newline, so a frame is a line, and what a crash left half-written can only be the
file's tail. A bad frame before a good one is damage that no crash explains, and is refused.
"""

from __future__ import annotations

import json
import re
import shlex
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from evomerge.core.errors import UserError
from evomerge.study.journal.event_check import EventCheck
from evomerge.study.journal.old_events import upgraded

Event = dict[str, Any]

FORMAT = 1
HEADER: Event = {"event": "journal", "format": FORMAT}
_FRAME_START = re.compile(rb'[0-9a-f]{8} [1-9][0-9]* \{"event":')


def encode(event: Event) -> bytes:
    """Return an event as a frame.

    Raises:
        ValueError: `event` has no name, or holds NaN or infinity.
    """
    return _frame(_payload(event))


def decode(frame: bytes) -> Event:
    """The event of a frame that `encode` made, with JSON's types."""
    event: Event = _decode(frame.split(b" ", 2)[2])
    return event


def frames(
    file: BinaryIO,
    path: Path,
    end: int = 0,
    before: int = 0,
    check: EventCheck | None = None,
) -> Iterator[tuple[int, Event]]:
    """Yield every whole frame as (offset of its end, event), up to the end or a torn tail.

    Args:
        file: Placed at `end`.
        path: For messages.
        end: Where the last frame that was read ends.
        before: How many were read.
        check: What these were checked by.

    Raises:
        UserError: A frame is damaged and a whole one follows, an event is none that evomerge
            writes, or this is no journal.
    """
    check = EventCheck() if check is None else check
    for count, line in enumerate(file, before):
        payload = _unframe(line)
        if payload is None:
            _check_tail(end, count, line + file.read(), path)
            return
        event = upgraded(_event(payload, end, path))
        if count == 0:
            _check_header(event, path)
        wrong = check.fault(event)
        if wrong:
            raise UserError(
                f"{path} has an event at byte {end} that evomerge did not write, "
                f"`{event['event']}`{wrong}; {_remedy(path, count, end)}"
            )
        end += len(line)
        yield end, event


def _payload(event: Event) -> bytes:
    """Return JSON on one line, with the event's name first and the other keys in their order."""
    if not isinstance(event.get("event"), str):
        raise ValueError(f"a journal event needs a name under 'event', but got {event!r:.80}")
    named = {"event": event["event"], **event}
    return _write(named).encode("ascii")


def _frame(payload: bytes) -> bytes:
    return b"%08x %d %s\n" % (zlib.crc32(payload), len(payload), payload)


def _unframe(line: bytes) -> bytes | None:
    """Return the payload of a whole frame, or None: it must be byte for byte as written."""
    parts = line.split(b" ", 2)
    if len(parts) < 3:
        return None
    payload = parts[2].removesuffix(b"\n")
    return payload if line == _frame(payload) else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


_write = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_python = json.JSONDecoder(parse_constant=_refuse).decode  # NaN and infinities are never written


def _decode(payload: bytes) -> Any:
    """Parse as `json` does, to the last bit, in less than half its time: most of a replay's."""
    if not payload.isascii():
        raise ValueError("it is not ASCII")
    try:
        return orjson.loads(payload)
    except ValueError:  # half a surrogate pair, which a file's name may hold
        return _python(payload.decode("ascii"))


def _event(payload: bytes, offset: int, path: Path) -> Event:
    """Decode a whole frame; its checksum is right, but anybody can make one that is."""
    try:
        event: Event = _decode(payload)
        if isinstance(event["event"], str):
            return event
    except (ValueError, RecursionError, KeyError, TypeError, IndexError):
        pass
    raise UserError(f"{path} has something at byte {offset} that evomerge did not write: no event")


def _check_tail(offset: int, count: int, tail: bytes, path: Path) -> None:
    """Refuse a bad frame that no torn write explains: a frame follows, or nothing precedes."""
    for match in _FRAME_START.finditer(tail, 1):  # also where a newline was lost
        stop = tail.find(b"\n", match.start()) + 1
        if stop and _unframe(tail[match.start() : stop]) is not None:
            raise UserError(
                f"{path} is damaged at byte {offset} (a readable event follows at byte "
                f"{offset + match.start()}): {_remedy(path, count, offset)}"
            )
    if count == 0 and not _frame(_payload(HEADER)).startswith(tail):
        raise UserError(f"{path} is not an evomerge journal: expected its first line to be one")


def _remedy(path: Path, count: int, offset: int) -> str:
    return (
        f"restore a copy, or keep the {count} events before the damage with `evomerge repair "
        f"{shlex.quote(str(path.parent))} --to {offset}`"
    )


def _check_header(event: Event, path: Path) -> None:
    if event["event"] != "journal" or not isinstance(event.get("format"), int):
        raise UserError(f"{path} is not an evomerge journal: its first event is {event['event']!r}")
    if event["format"] > FORMAT:
        raise UserError(
            f"{path} has journal format {event['format']}, but this evomerge reads up to {FORMAT}: "
            "upgrade evomerge"
        )
