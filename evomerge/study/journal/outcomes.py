"""Stores a study's outcomes by (digest, mode, task, doc id), packed: 25 bytes each, not 300.

A study of ten thousand trials has half a million outcomes or more, and a driver that resumes reads
them all. They come and are wanted in batches (one recipe, one task), so a batch is what is stored:
four columns. Outcomes are looked up by batch with `rows` and `missing`, or singly as in a dict.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from math import isnan, nan
from operator import itemgetter
from typing import Any, NamedTuple

from evomerge.evaluate.outcomes import OutcomeRow
from evomerge.study.statistics.outcome import DocId

Key = tuple[str, str, str, DocId]  # digest, mode, task, doc id
Items = Mapping[str, Sequence[DocId]]


class _Columns(NamedTuple):
    ids: array[int]  # int64
    metric: array[float]  # float64, NaN for none: no score is NaN
    smooth: array[float]  # float64, likewise
    flags: bytearray  # truncated + 2 * extracted + 4 * degenerate


class Written(NamedTuple):
    """Counts of generated answers, and of those that were truncated or had no answer found."""

    answers: int
    truncated: int  # ran into the length limit
    unextracted: int  # the task's filter found no answer in them


class OutcomeTable(Mapping[Key, OutcomeRow]):
    """A mapping (digest, mode, task, doc id) -> `OutcomeRow`; `add` never replaces what is there.

    Attributes:
        disagreements: Outcomes that were delivered again and differed from the first delivery.
    """

    def __init__(self) -> None:
        self.disagreements = 0
        self._columns: dict[tuple[str, str, str], _Columns] = {}
        self._length = 0

    def add(self, digest: str, mode: str, rows: Sequence[Sequence[object]]) -> None:
        """Keep `rows` (`OutcomeRow` or lists in its order) unless their item is there already."""
        by_task: dict[str, list[Sequence[Any]]] = {}
        for task, run in groupby(rows, itemgetter(0)):
            by_task.setdefault(str(task), []).extend(run)
        for task, rows_of_task in by_task.items():
            self._add(digest, mode, task, rows_of_task)

    def replace(self, digest: str, mode: str, rows: Sequence[Sequence[object]]) -> None:
        """Put `rows` in the place of what is there: a device that was found broken scored that."""
        for row in rows:
            columns = self._columns.get((digest, mode, str(row[0])))
            place = _places(columns).get(row[1]) if columns else None  # type: ignore[call-overload]
            if columns is not None and place is not None:
                for column in columns:
                    del column[place]
                self._length -= 1
        self.add(digest, mode, rows)

    def rename(self, digests: Mapping[str, str]) -> None:
        """File outcomes under the new digest of each old one."""
        columns = self._columns.items()
        self._columns = {(digests.get(key[0], key[0]), *key[1:]): value for key, value in columns}

    def rows(self, digest: str, mode: str, items: Items) -> list[OutcomeRow]:
        """Return the outcomes that are there for these items, in their order."""
        rows = []
        for task, ids in items.items():
            columns = self._columns.get((digest, mode, task))
            if columns:
                places = _places(columns)
                rows += [_row(task, columns, places[i]) for i in ids if i in places]
        return rows

    def missing(self, digest: str, mode: str, items: Items) -> dict[str, list[DocId]]:
        """Return those of these items without outcome: what still has to be paid for."""
        left = {}
        for task, ids in items.items():
            columns = self._columns.get((digest, mode, task))
            there = set(columns.ids) if columns else set()
            absent = [i for i in ids if i not in there]
            if absent:
                left[task] = absent
        return left

    def has(self, digest: str, mode: str, items: Items) -> bool:
        """Return whether all of these items have an outcome."""
        for task, ids in items.items():
            columns = self._columns.get((digest, mode, task))
            if not set(columns.ids if columns else ()).issuperset(ids):
                return False
        return True

    def written(self, digest: str, tasks: Iterable[str]) -> Written:
        """Count the fates of a recipe's answers in those tasks (the ones that generate)."""
        flags = bytearray()
        for task in tasks:
            columns = self._columns.get((digest, "metric", task))
            flags += columns.flags if columns else b""
        return Written(len(flags), sum(f & 1 for f in flags), sum(not f & 2 for f in flags))

    def deliveries(self) -> Iterator[tuple[str, str, OutcomeRow]]:
        """Yield every outcome with its digest and mode."""
        for (digest, mode, task), columns in self._columns.items():
            for place in range(len(columns.ids)):
                yield digest, mode, _row(task, columns, place)

    def __getitem__(self, key: Key) -> OutcomeRow:
        digest, mode, task, doc_id = key
        columns = self._columns[digest, mode, task]
        try:
            return _row(task, columns, columns.ids.index(doc_id))
        except ValueError:
            raise KeyError(key) from None

    def __iter__(self) -> Iterator[Key]:
        for where, columns in self._columns.items():
            yield from ((*where, i) for i in columns.ids)

    def __len__(self) -> int:
        return self._length

    def _add(self, digest: str, mode: str, task: str, rows: Sequence[Sequence[Any]]) -> None:
        columns = self._columns.get((digest, mode, task))
        if columns is None:
            columns = _Columns(array("q"), array("d"), array("d"), bytearray())
            self._columns[digest, mode, task] = columns
        if columns.ids:
            rows = self._unseen(columns, rows)
        if not rows:
            return
        try:
            _, ids, metric, smooth, truncated, extracted, *more = zip(*rows, strict=True)
        except ValueError:  # most have no seventh value
            rows = [OutcomeRow(*row) for row in rows]
            _, ids, metric, smooth, truncated, extracted, *more = zip(*rows, strict=True)
        if len({*ids}) < len(ids):  # the same item twice, not stored before
            rows = self._unseen(columns, rows)
            _, ids, metric, smooth, truncated, extracted, *more = zip(*rows, strict=True)
        columns.ids.extend(ids)
        columns.metric.extend(_without_none(metric))
        columns.smooth.extend(_without_none(smooth))
        if truncated.count(0) == extracted.count(1) == len(ids) and not more:  # nearly always
            columns.flags.extend(b"\2" * len(ids))
        else:
            bits = zip(truncated, extracted, more[0] if more else [0] * len(ids), strict=True)
            columns.flags.extend([t + 2 * e + 4 * d for t, e, d in bits])
        self._length += len(rows)

    def _unseen(self, columns: _Columns, rows: Sequence[Sequence[Any]]) -> list[OutcomeRow]:
        """Return the rows whose item is new, and count those that contradict an earlier one."""
        places = _places(columns)
        unseen: dict[DocId, OutcomeRow] = {}
        for row in (OutcomeRow(*row_values) for row_values in rows):
            if row.doc_id in places:
                first = _row(row.task, columns, places[row.doc_id])
            else:
                first = unseen.setdefault(row.doc_id, row)
            self.disagreements += first != row
        return list(unseen.values())


def _without_none(values: Sequence[Any]) -> Sequence[float]:
    missing = values.count(None)
    if missing == len(values):
        return [nan] * missing
    return [nan if value is None else value for value in values] if missing else values


def _places(columns: _Columns) -> dict[DocId, int]:
    return {doc_id: place for place, doc_id in enumerate(columns.ids)}


def _row(task: str, columns: _Columns, place: int) -> OutcomeRow:
    metric, smooth = columns.metric[place], columns.smooth[place]
    flags = columns.flags[place]
    return OutcomeRow(
        task,
        columns.ids[place],
        None if isnan(metric) else metric,
        None if isnan(smooth) else smooth,
        flags & 1,
        flags >> 1 & 1,
        flags >> 2,
    )
