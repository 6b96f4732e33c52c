"""Leaves secrets out of events before they are written; what is compared later stays comparable.

Names and paths say which study a run is: they stay whole, whatever the environment holds. Messages
and warnings, which are texts of others, are redacted. Options of the generation engine and the
cluster may hold a real secret: it is left out, and a slow hash of the option stays.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from evomerge.core.redact import MARK, redact
from evomerge.study.journal.events import (
    ChangedEvent,
    ChosenEvent,
    Event,
    ExportedEvent,
    FailedEvent,
    StudyEvent,
    WarningEvent,
)

_ROUNDS = 200_000  # of the hash: a word cannot be guessed by trying many
_FREE = ("evaluate.engine_options", "workers")  # the sections that hold what is no name


def without_secrets(event: Event) -> Event:
    """The event as it may be written."""
    match event:
        case StudyEvent():
            config, seals = sealed(event.config)
            warnings = [redact(text) for text in event.warnings]
            device = redact(event.device)
            seals = {**(event.seals or {}), **seals}  # of one that was read from a journal
            return replace(event, config=config, seals=seals, warnings=warnings, device=device)
        case ChangedEvent():
            differences = [redact(text) for text in event.differences]
            now = event.now
            if now.config is not None:
                config, seals = sealed(now.config)
                now = replace(now, config=config, seals=seals)
            return replace(event, differences=differences, now=now)
        case FailedEvent() | WarningEvent():
            return replace(event, message=redact(event.message))
        case ChosenEvent():
            return replace(event, reason=redact(event.reason))
        case ExportedEvent():
            adapter = event.adapter
            if adapter is not None:
                adapter = replace(adapter, sentence=redact(adapter.sentence))
            no_mergekit = event.no_mergekit and redact(event.no_mergekit)
            return replace(event, no_mergekit=no_mergekit, adapter=adapter)
    return event


def sealed(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """A configuration without secrets, and a hash of each text that was changed, by its path."""
    seals: dict[str, str] = {}

    def written(value: Any, path: str) -> Any:
        if isinstance(value, Mapping):
            return {key: written(item, _below(path, key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [written(item, f"{path}[{i}]") for i, item in enumerate(value)]
        if isinstance(value, str) and path.startswith(_FREE) and redact(value) != value:
            seals[path] = _seal(value, path)
            return redact(value)
        return value

    return written(config, ""), seals


def unsealed(old: Any, new: Any, seals: Mapping[str, str] | None, path: str = "") -> Any:
    """An old configuration in which a text that lost a secret is the new one, if that fits.

    An earlier version kept no hashes, and redacted names too: there, what is left must be equal.
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return {k: unsealed(v, new.get(k), seals, _below(path, k)) for k, v in old.items()}
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [unsealed(a, b, seals, f"{path}[{i}]") for i, (a, b) in pairs]
    if not (isinstance(old, str) and MARK in old and isinstance(new, str)):
        return old
    if seals is not None and path in seals:
        return new if _seal(new, path) == seals[path] else old
    left = ".+".join(map(re.escape, old.split(MARK)))
    return new if re.fullmatch(left, new, re.DOTALL) else old


def lost(value: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of the texts in a configuration that lack a secret."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from lost(item, _below(path, key))
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from lost(item, f"{path}[{i}]")
    elif isinstance(value, str) and MARK in value:
        yield path


def _below(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _seal(text: str, path: str) -> str:
    data = text.encode("utf-8", "surrogatepass")
    return hashlib.pbkdf2_hmac("sha256", data, path.encode(), _ROUNDS).hex()[:32]
