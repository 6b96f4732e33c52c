"""Makes pandas data frames of a study. The only door to pandas, imported when first needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evomerge.study.journal.record import Record
from evomerge.study.trial import Trial

if TYPE_CHECKING:
    import pandas


def trials_dataframe(record: Record) -> pandas.DataFrame:
    """Return one row per trial, in the order of asking, anchors included.

    Columns: ``number kind name generation state fitness gain truncated unextracted failure
    digest``, then ``score_TASK`` for every task and ``param_NAME`` for every dimension; missing
    where a trial has none.
    """
    import pandas

    dimensions = [dimension.name for dimension in record.dimensions]
    rows = []
    for number in record.trials:
        trial = Trial(record, number)
        scores, params = trial.scores, trial.params
        rows.append(
            {
                "number": trial.number,
                "kind": trial.kind,
                "name": trial.name,
                "generation": trial.generation,
                "state": trial.state,
                "fitness": trial.fitness,
                "gain": trial.gain,
                "truncated": trial.truncated,
                "unextracted": trial.unextracted,
                "failure": trial.failure.kind if trial.failure else None,
                "digest": trial.digest,
                **{f"score_{task}": scores.get(task) for task in record.tasks},
                **{f"param_{name}": params.get(name) for name in dimensions},
            }
        )
    frame = pandas.DataFrame(rows)
    if len(frame):
        frame["generation"] = frame["generation"].astype("Int64")
    return frame


def outcomes_dataframe(record: Record) -> pandas.DataFrame:
    """Return one row per outcome: what a recipe got on an item.

    Columns: ``trial`` (the first with that recipe), ``digest``, ``mode`` (``smooth`` or
    ``metric``), ``task``, ``item`` (the document's number), ``pool``, ``metric``, ``smooth``,
    ``truncated``, ``extracted``.
    """
    import pandas

    first: dict[str, int] = {}
    for trial in record.trials.values():
        first.setdefault(trial.digest, trial.number)
    pool_of = {
        (task, i): pool
        for pool, items in record.pools.items()
        for task, ids in items.items()
        for i in ids
    }
    rows: list[dict[str, Any]] = []
    for digest, mode, row in record.outcomes.deliveries():
        rows.append(
            {
                "trial": first.get(digest),
                "digest": digest,
                "mode": mode,
                "task": row.task,
                "item": row.doc_id,
                "pool": pool_of.get((row.task, row.doc_id)),
                "metric": row.metric,
                "smooth": row.smooth,
                "truncated": bool(row.truncated),
                "extracted": bool(row.extracted),
            }
        )
    return pandas.DataFrame(rows)
