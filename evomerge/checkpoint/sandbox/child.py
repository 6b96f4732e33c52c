"""Reads a model's files within limits, in a child, before the process itself does.

`client` starts it with nothing but Python's standard library. A file that it reads within its
limits is safe for the process too, since both use the same functions. It answers in lines of JSON;
the last one before an early end names the file that it was reading.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evomerge.checkpoint.files.document import read_json
from evomerge.checkpoint.files.folder import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CONFIG,
    INDEX,
    TOKENIZER_SETTINGS,
    check_entries,
    read_config,
    stamps,
)
from evomerge.checkpoint.files.header import read_header
from evomerge.checkpoint.files.index import shards_of
from evomerge.checkpoint.vocabulary import MAX_BYTES, read_tokenizer, sum_of
from evomerge.checkpoint.vocabulary_files import read_vocabulary
from evomerge.core.errors import UserError

MEGABYTES = 180  # beyond its memory at the start
PROCESSOR_SECONDS = 5  # a file
SECONDS = 60  # a file, by the clock
_DESCRIPTORS = 16


def main(folders: Sequence[str]) -> None:
    """Inspect folders one by one, with one answer for each, until one is refused."""
    limit()
    write({"ready": True})
    known: dict[str | None, Any] = {}
    for folder in folders:
        try:
            answer = _inspect(Path(folder), known)
        except MemoryError:
            return
        except OSError as error:
            answer = {"stamps": {}, "refused": f"{error.filename}: {error.strerror}"}
        write(answer)
        if "refused" in answer:
            return


def _inspect(folder: Path, known: dict[str | None, Any]) -> dict[str, Any]:
    """Return the files' stamps before reading, and the digest of the tokens or an error."""
    files = stamps(folder)
    try:
        check_entries(folder)
        _read_weights(folder)
    except UserError as error:
        return {"stamps": files, "refused": str(error)}
    for name in TOKENIZER_SETTINGS:
        if (folder / name).is_file():
            _begin(folder / name)
            with contextlib.suppress(UserError):  # raised again by whoever uses the file
                read_json(folder / name)
    _begin(folder / "tokenizer.json")
    try:
        return {"stamps": files, **_tokens(folder, known)}
    except UserError as error:
        return {"stamps": files, "broken": str(error)}


def _read_weights(folder: Path) -> None:
    named = None
    if (folder / CONFIG).is_file():
        _begin(folder / CONFIG)
        named = read_config(folder).get("transformers_weights")
    weights: set[str] = set()
    if (folder / ADAPTER_CONFIG).is_file():
        _begin(folder / ADAPTER_CONFIG)
        read_json(folder / ADAPTER_CONFIG)
        if (folder / ADAPTER_WEIGHTS).is_file():
            weights.add(ADAPTER_WEIGHTS)
    others = any(file.name != ADAPTER_WEIGHTS for file in folder.glob("*.safetensors"))
    if (folder / INDEX).is_file() or others:  # an adapter's folder may have no weights but its own
        _begin(folder / INDEX)
        weights.update(shards_of(folder, None if named is None else str(named)))
    for name in sorted(weights):
        _begin(folder / name)
        read_header(folder / name)


def _tokens(folder: Path, known: dict[str | None, Any]) -> dict[str, Any]:
    """Return a digest of the tokenizer's tokens; of equal files only one is read."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        vocabulary = read_vocabulary(folder)
        return {"tokens": None if vocabulary is None else sum_of(vocabulary)}
    content = None
    if file.stat().st_size <= MAX_BYTES:
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
    if content not in known:
        tokenizer = read_tokenizer(folder)
        known[content] = None if tokenizer is None else sum_of(tokenizer.vocabulary)
    return {"tokens": known[content]}


def _begin(file: Path) -> None:
    """Announce the next file, and restart the limits on time for it."""
    write({"reading": str(file)})
    if sys.platform != "win32":
        signal.alarm(SECONDS)  # whose signal ends a process that does not expect it
        _at_most("RLIMIT_CPU", math.ceil(time.process_time()) + PROCESSOR_SECONDS, hard=False)


def limit() -> None:
    """Limit memory and open files; forbid writing files and core dumps."""
    in_use = 0  # bytes of address space; 0 where there is no /proc
    with contextlib.suppress(OSError), open("/proc/self/statm", "rb") as stream:
        in_use = int(stream.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    _at_most("RLIMIT_AS", in_use + MEGABYTES * 2**20)
    _at_most("RLIMIT_FSIZE", 0)
    _at_most("RLIMIT_NOFILE", _DESCRIPTORS)
    _at_most("RLIMIT_CORE", 0)


def _at_most(kind: str, value: int, hard: bool = True) -> None:
    """Set a limit unless a lower one applies; do nothing where the system has no such limit."""
    try:
        import resource
    except ImportError:  # Windows
        return
    with contextlib.suppress(ValueError, OSError, AttributeError):
        number = getattr(resource, kind)
        ceiling = resource.getrlimit(number)[1]
        if ceiling != resource.RLIM_INFINITY:
            value = min(value, ceiling)
        resource.setrlimit(number, (value, value if hard else ceiling))


def write(answer: dict[str, Any]) -> None:
    """Send a line to the parent."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
