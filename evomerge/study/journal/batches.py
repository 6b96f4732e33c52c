"""Remembers the batches of outcomes: candidates that are compared must be scored alike.

Batched arithmetic rounds by the shape of its batch. So a worker reports the digest of the batches
that it scored a shard in, and the journal keeps it with the outcomes: ``batches``, for each shard
of an event ``[digest, items]``, whose items are that many of its rows, in their order. The digest
is empty for outcomes of another run that were not scored just together.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import groupby
from operator import itemgetter
from typing import cast

from evomerge.evaluate.outcomes import ScoreKind
from evomerge.study.journal.events import OutcomesEvent

Shard = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Probe:
    """A shard that was scored, and the batches that it was in."""

    mode: ScoreKind
    items: dict[str, list[int]]
    batches: str


@dataclass
class BatchTable:
    """The batches of every recipe's shards.

    Attributes:
        last: A shard that was scored while batches were halved as often as they are now.
        conflicts: How often a shard was scored in other batches than the first time.
    """

    last: Probe | None = None
    conflicts: int = 0
    _first: dict[bytes, str] = field(default_factory=dict)  # shard -> batches
    _scored: dict[tuple[str, str], dict[bytes, str]] = field(default_factory=dict)
    _halvings: int = 0
    _last_shard: tuple[str, Shard] | None = None
    _last_key: bytes = b""

    def note(self, event: OutcomesEvent) -> None:
        """Take in outcomes; an earlier version wrote no batches."""
        start, mode = 0, event.mode
        for batches, count in event.batches:
            shard: dict[str, list[int]] = {}
            for task, rows in groupby(event.rows[start : start + count], itemgetter(0)):
                shard.setdefault(task, []).extend(map(itemgetter(1), rows))
            start += count
            if not batches:
                continue
            if (mode, shard) != self._last_shard:  # all of a generation have the same
                self._last_shard, self._last_key = (mode, shard), _key(mode, shard)
            key = self._last_key
            first = self._first.setdefault(key, batches)
            if first == batches:
                batches = first  # equal strings need no memory twice
            else:
                self.conflicts += 1
            self._scored.setdefault((event.digest, mode), {})[key] = batches
            if event.halvings >= self._halvings and not event.reused:
                self._halvings = event.halvings
                self.last = Probe(cast(ScoreKind, mode), shard, batches)

    def rename(self, digests: Mapping[str, str]) -> None:
        """File batches under the new digest of each recipe."""
        scored = self._scored.items()
        self._scored = {(digests.get(key[0], key[0]), key[1]): value for key, value in scored}

    def of(self, digest: str, mode: str, shards: Iterable[Shard]) -> tuple[str | None, ...]:
        """Return the batches in which a recipe was scored on each shard.

        ``None`` where it was not scored on exactly these items together, or that is unknown.
        """
        scored = self._scored.get((digest, mode), {})
        return tuple(scored.get(_key(mode, shard)) for shard in shards)


def _key(mode: str, shard: Shard) -> bytes:
    digest = blake2b(mode.encode(), digest_size=12)
    for task, ids in shard.items():
        digest.update(f"{task!r}{len(ids)}".encode() + array("q", ids).tobytes())
    return digest.digest()
