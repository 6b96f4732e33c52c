"""Phase 0 checks parents and tasks, and compares the study with its journal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.core.errors import UserError
from evomerge.core.redact import redacted
from evomerge.core.version import __version__
from evomerge.study.context import StudyRun
from evomerge.study.journal.codec import from_json, to_json
from evomerge.study.journal.events import ChangedEvent, StudyChanges, StudyEvent
from evomerge.study.journal.shards import shard_items
from evomerge.study.past import of_journal, refuse_other_points
from evomerge.study.statistics.outcome import TaskSpec
from evomerge.study.statistics.pools import split
from evomerge.study.statistics.verdict import Verdict
from evomerge.study.workers.requests import Describe, Description, ExpectedParents
from evomerge.study.workers.versions import difference, versions

# Keys that may differ when a study is resumed: how long, where, and which files it leaves.
_FREE = {("search", "trials"), ("search", "deadline"), ("workers",), ("output", "save_model")}


def finished(study: StudyRun) -> Verdict | None:
    """Return the verdict of a study that has nothing left to do."""
    record, wanted = study.record, study.config.search.trials
    if record.study is None or record.verdict is None or record.exported is None:
        return None
    ended = record.search_ended
    asked = sum(len(g.trials) for g in record.generations.values())
    enough = ended is not None and (ended.trials >= wanted or ended.wanted >= wanted)
    whole = record.exported.model is not None or not study.config.output.save_model
    if asked and enough and whole and record.phase == "done":  # not amid an extension's end
        return from_json(Verdict, to_json(record.verdict))
    return None


def refuse_another(study: StudyRun, external: bool = False, allow_changed: bool = False) -> None:
    """Refuse to resume with a study that asks for something else.

    Args:
        study: What is asked for now, with the journal of the run folder.
        external: Whether the caller evaluates its trials, with `ask` and `tell`.
        allow_changed: Write the differences down and go on. What would have asked for other
            recipes is still refused, when the recipes are compared.

    Raises:
        UserError: Names every key that differs.
    """
    past = study.record.study
    if past is None:
        return
    if past.elsewhere != external:
        remedy = "scores its trials with its own workers: call optimize() or confirm()"
        if past.elsewhere:
            remedy = "is evaluated externally: continue with ask() and tell()"
        raise UserError(f"{study.directory}: this study {remedy}, or start another run folder")
    if finished(study) is None:
        refuse_other_points(past, str(study.directory))
    now = redacted(study.config.to_dict())
    old, new = _fixed(of_journal(past)), _fixed(now)
    if old != new:
        differences = _differences(old, new, "study")
        if not allow_changed:
            raise UserError(
                f"{study.directory}: this run began with another study: {'; '.join(differences)}; "
                "start another run folder, or continue with --allow-changed, which the journal "
                "records"
            )
        study.ledger.log(ChangedEvent(differences=differences, now=StudyChanges(config=now)))


def check(study: StudyRun, allow_changed: bool = False) -> None:
    """Have a worker check parents and tasks; begin the journal, or compare with it.

    Args:
        study: The study.
        allow_changed: Go on with another version of evomerge or of a library, and write that down.

    Raises:
        UserError: Parents and tasks do not fit together, or changed since the study began.
    """
    first = study.space.fill([dimension.start for dimension in study.space.dimensions])
    scored = study.record.batches.last
    probe = None if scored is None else (scored.mode, scored.items)
    description = study.ledger.request(Describe(first.to_dict(), probe), Description)
    if description.stamp is not None:
        expected = ExpectedParents(description.stamp, description.fingerprints)
        study.ledger.expect(expected)
    event = _study_event(study, description)
    past = study.record.study
    if past is None:
        study.ledger.log(event)
        return
    for key, what in (
        ("fingerprints", "a parent's weights"),
        ("protocol", "the tasks"),
        ("task_code", "the tasks' code"),
    ):
        before, now = (getattr(begun, key) or {} for begun in (past, event))
        if before != now:
            named = _differences(before, now, key)[0]
            raise UserError(
                f"{study.directory}: {what} changed since this study began ({named}); "
                "restore what it began with, or start another run folder"
            )
    began_with = past.versions or {}
    present = {name: v for name, v in versions().items() if name in began_with}
    differs = difference(began_with, present)
    if differs:
        if not allow_changed:
            raise UserError(
                f"{study.directory}: this run began with other versions: {differs}; install those, "
                "or continue with --allow-changed, which the journal records"
            )
        changes = StudyChanges(versions=versions())
        study.ledger.log(ChangedEvent(differences=[differs], now=changes))
    _check_batches(study, description.batches, allow_changed)


def _check_batches(study: StudyRun, now: str | None, allow_changed: bool) -> None:
    """Refuse to resume if earlier items would now be scored in other batches, hence inexactly."""
    scored = study.record.batches.last
    begun = study.record.study
    allowed = None if begun is None else begun.batches  # by an earlier --allow-changed
    if scored is None or now is None or now in (scored.batches, allowed):
        return
    change = (
        f"batches of {sum(map(len, scored.items.values()))} items were {scored.batches}, now {now}"
    )
    if not allow_changed:
        raise UserError(
            f"{study.directory}: items are batched differently than when this study "
            f"began ({change}), so scores would differ by rounding; resume with the same "
            "device, batch size and versions, or continue with --allow-changed, which the journal "
            "records"
        )
    study.ledger.log(ChangedEvent(differences=[change], now=StudyChanges(batches=now)))


def _study_event(study: StudyRun, description: Description) -> StudyEvent:
    evaluation = description.evaluation
    keys = evaluation["item_keys"]
    ids = evaluation["items"]
    shares = study.config.evaluate.items.shares
    whole = study.config.evaluate.items.pool_of
    pools = {
        pool: {task: [ids[task][i] for i in chosen] for task, chosen in items.items()}
        for pool, items in split(keys, shares, study.seed, whole).items()
    }
    tasks: dict[str, TaskSpec] = {
        task: {
            "metric": metric["name"],
            "higher_is_better": metric["higher_is_better"],
            "weight": evaluation["weights"][task],
            "output_type": evaluation["output_types"][task],
        }
        for task, metric in evaluation["metrics"].items()
    }
    for pool, items in pools.items():
        if not any(tasks[task]["weight"] for task in items):
            raise UserError(f"evaluate.tasks: all tasks of the pool '{pool}' have weight 0")
    return StudyEvent(
        version=__version__,
        versions=versions(),
        config=study.config.to_dict(),
        space=study.space.document,
        dimensions=tuple(study.space.dimensions),
        protocol=evaluation["digest"],
        fingerprints=description.fingerprints,
        parameters=description.parameters,
        layers=description.layers,
        device=description.device,
        tasks=tasks,
        pools=pools,
        shard_items=shard_items(study.config),
        warnings=evaluation["warnings"],
        task_code=evaluation.get("code", {}),
    )


def _fixed(config: Mapping[str, Any], path: tuple[str, ...] = ()) -> Any:
    """Return a configuration without what may change between runs, and without empty keys.

    A key that came with a later version is none until it is used, and so no difference.
    """
    return {
        key: _fixed(value, (*path, key)) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if (*path, key) not in _FREE and value is not None
    }


def _differences(old: Any, new: Any, path: str) -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            line
            for key in keys
            if old.get(key) != new.get(key)
            for line in _differences(old.get(key), new.get(key), f"{path}.{key}")
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [
            line for i, (a, b) in pairs if a != b for line in _differences(a, b, f"{path}[{i}]")
        ]
    return [f"{path} was {_short(old)}, now {_short(new)}"]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
