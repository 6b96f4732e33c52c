"""Phase 0 checks parents and tasks, and compares the study with its journal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.core.errors import UserError
from evomerge.core.schema import renamed
from evomerge.core.version import __version__
from evomerge.recipe.recipe import Recipe
from evomerge.study.context import StudyRun
from evomerge.study.journal.codec import from_json, to_json
from evomerge.study.journal.events import ChangedEvent, MovedEvent, StudyChanges, StudyEvent
from evomerge.study.journal.shards import shard_items
from evomerge.study.past import moved_paths, of_journal, refuse_other_points
from evomerge.study.sealing import lost, unsealed
from evomerge.study.statistics.outcome import TaskSpec
from evomerge.study.statistics.pools import clusters, split, together
from evomerge.study.statistics.verdict import Verdict
from evomerge.study.versions import difference, versions
from evomerge.study.workers.requests import Describe, Description, ExpectedParents

# Keys that may differ when a study is resumed: how long, where, and which files it leaves.
_FREE = {
    *(("search", key) for key in ("trials", "deadline", "max_cost")),
    ("workers",),
    *(("output", key) for key in ("save_model", "adapter_rank")),
}


def finished(study: StudyRun) -> Verdict | None:
    """Return the verdict of a study that has nothing left to do."""
    record, wanted = study.record, study.config.search.trials
    if record.study is None or record.verdict is None or record.exported is None:
        return None
    ended = record.search_ended
    enough = ended is not None and (ended.trials >= wanted or ended.wanted >= wanted)
    output, adapter = study.config.output, record.exported.adapter
    whole = record.exported.model is not None or not output.save_model
    whole &= (output.adapter_rank or None) == (adapter and adapter.asked_rank)
    # An extension that has not ended is in another phase.
    if record.n_searched and enough and whole and record.phase == "done":
        return from_json(Verdict, to_json(record.verdict))
    return None


@dataclass(frozen=True)
class Differences:
    """Differences of a study from its journal; written down once all checks have agreed.

    Attributes:
        paths: The new path of each model or file that may have moved, by the old one.
        changed: What ``--allow-changed`` let differ.
    """

    paths: Mapping[str, str] = field(default_factory=dict)
    changed: Sequence[ChangedEvent] = ()

    @property
    def is_empty(self) -> bool:
        """True if there are none."""
        return not (self.paths or self.changed)


def refuse_another(
    study: StudyRun, external: bool = False, allow_changed: bool = False
) -> Differences:
    """Refuse to resume with a study that asks for something else.

    Args:
        study: What is asked for now, with the journal of the run folder.
        external: Whether the caller evaluates its trials, with `ask` and `tell`.
        allow_changed: Go on nonetheless. What would have asked for other recipes is still
            refused, when the recipes are compared.

    Returns:
        The differences, for `check`. Other paths are none if the content there is the same.

    Raises:
        UserError: Names every key that differs.
    """
    past = study.record.study
    if past is None:
        return Differences()
    if past.elsewhere != external:
        remedy = "scores its trials with its own workers: call optimize() or confirm()"
        if past.elsewhere:
            remedy = "is evaluated externally: continue with ask() and tell()"
        raise UserError(f"{study.directory}: this study {remedy}, or start another run folder")
    if finished(study) is None:
        refuse_other_points(past, str(study.directory))
    now = study.config.to_dict()
    without = next(lost(now), None)
    if without is not None:
        raise UserError(
            f"{study.directory}: {without} holds a secret, which the journal leaves out: resume "
            "with the study file (or the values) that began this run"
        )
    old, new = _fixed(unsealed(of_journal(past), now, past.seals)), _fixed(now)
    paths = {} if external else moved_paths(old, new)
    if renamed(old, paths) == new:
        return Differences(paths)
    differences = _differences(old, new, "study")
    if not allow_changed:
        raise _another_study(study, differences)
    return Differences(paths, [ChangedEvent(differences=differences, now=StudyChanges(config=now))])


def check(
    study: StudyRun, allow_changed: bool = False, differences: Differences | None = None
) -> None:
    """Have a worker check parents and tasks; begin the journal, or compare with it.

    Nothing is written before everything agrees.

    Args:
        study: The study.
        allow_changed: Go on with another version of evomerge or of a library, and write that down.
        differences: What `refuse_another` found; ``None``: nothing.

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
    differences = differences or Differences()
    _compare_content(study, past, event, differences.paths)
    changed = [
        *differences.changed,
        *_changed_versions(study, past, allow_changed),
        *_changed_batches(study, description.batches, allow_changed),
    ]
    if differences.paths:
        study.ledger.log(_moved(study, differences.paths))
    for change in changed:
        study.ledger.log(change)


def _compare_content(
    study: StudyRun, past: StudyEvent, now: StudyEvent, paths: Mapping[str, str]
) -> None:
    """Refuse other weights, tasks or code than the study began with, wherever they lie."""
    fingerprints = {paths.get(name, name): digest for name, digest in past.fingerprints.items()}
    if fingerprints != now.fingerprints and paths:
        changes = [f"{old} is now {new}, with other content" for old, new in paths.items()]
        raise _another_study(study, changes)
    for what, key, before, after in (
        ("a parent's weights", "fingerprints", fingerprints, now.fingerprints),
        ("the tasks", "protocol", past.protocol, now.protocol),
        ("the tasks' code", "task_code", past.task_code or {}, now.task_code or {}),
        ("the base's generation_config.json", "generation", past.generation, now.generation),
    ):
        if before is not None and before != after and _content(before) != _content(after):
            named = _differences(before, after, key)[0]
            raise UserError(
                f"{study.directory}: {what} changed since this study began ({named}); "
                "restore what it began with, or start another run folder"
            )


def _content(value: Any) -> Any:
    """Return hashes of files with the files' names, in whichever folders; else the value."""
    if not isinstance(value, Mapping):
        return value
    return sorted((Path(file).name, digest) for file, digest in value.items())


def _moved(study: StudyRun, paths: Mapping[str, str]) -> MovedEvent:
    digests = {}
    for trial in study.record.trials.values():
        recipe = renamed(trial.recipe, paths)
        if recipe != trial.recipe and trial.digest not in digests:
            digests[trial.digest] = Recipe.from_dict(recipe).digest
    return MovedEvent(paths=paths, digests=digests)


def _changed_versions(
    study: StudyRun, past: StudyEvent, allow_changed: bool
) -> Iterator[ChangedEvent]:
    """Refuse other versions of evomerge or of a library, or yield them as a change."""
    began_with = past.versions or {}
    present = {name: v for name, v in versions().items() if name in began_with}
    differs = difference(began_with, present)
    if differs and not allow_changed:
        raise UserError(
            f"{study.directory}: this run began with other versions: {differs}; install those, "
            "or continue with --allow-changed, which the journal records"
        )
    if differs:
        yield ChangedEvent(differences=[differs], now=StudyChanges(versions=versions()))


def _changed_batches(
    study: StudyRun, now: str | None, allow_changed: bool
) -> Iterator[ChangedEvent]:
    """Refuse batches that would score earlier items inexactly, or yield them as a change."""
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
    yield ChangedEvent(differences=[change], now=StudyChanges(batches=now))


def _another_study(study: StudyRun, differences: Sequence[str]) -> UserError:
    return UserError(
        f"{study.directory}: this run began with another study: {'; '.join(differences)}; "
        "start another run folder, or continue with --allow-changed, which the journal records"
    )


def _study_event(study: StudyRun, description: Description) -> StudyEvent:
    evaluation = description.evaluation
    keys = together(evaluation)
    ids = evaluation["items"]
    shares = study.config.evaluate.items.shares
    whole = study.config.evaluate.items.pool_of
    chosen = split(keys, shares, study.seed, whole)
    pools = {
        pool: {task: [ids[task][i] for i in places] for task, places in items.items()}
        for pool, items in chosen.items()
    }
    judged = {pool: chosen[pool] for pool in ("race", "holdout")}
    clustered = {
        task: {ids[task][i]: number for i, number in numbers.items()}
        for task, numbers in clusters(keys, judged).items()
    }
    tasks = task_specs(evaluation)
    for task in evaluation.get("sampled", ()):
        tasks[task]["sampled"] = True
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
        clusters=clustered or None,
        shard_items=shard_items(study.config),
        warnings=evaluation["warnings"],
        task_code=evaluation.get("code", {}),
        generation=description.generation,
        lm_eval_loads=evaluation.get("lm_eval_loads", True),
    )


def task_specs(evaluation: Mapping[str, Any]) -> dict[str, TaskSpec]:
    """Return the tasks as the journal has them, from a worker's description of the evaluation."""
    specs: dict[str, TaskSpec] = {
        task: {
            "metric": metric["name"],
            "higher_is_better": metric["higher_is_better"],
            "weight": evaluation["weights"][task],
            "output_type": evaluation["output_types"][task],
        }
        for task, metric in evaluation["metrics"].items()
    }
    for task, metric in evaluation["metrics"].items():
        if "bounds" in metric:
            specs[task]["bounds"] = metric["bounds"]
    return specs


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
    was, now = _short(str(old), str(new))
    return [f"{path} was {was}, now {now}"]


def _short(old: str, new: str) -> tuple[str, str]:
    """Cut two texts to 80 letters, from shortly before they differ.

    >>> _short("/home/me/" + 100 * "x" + "/one", "/home/me/" + 100 * "x" + "/two")
    ('...xxxxxxxxxxxxxxx/one', '...xxxxxxxxxxxxxxx/two')
    """
    start = 0
    if max(len(old), len(new)) > 80:
        pairs = enumerate(zip(old, new, strict=False))
        start = max(0, next((i for i, (a, b) in pairs if a != b), 0) - 16)
    texts = [("..." if start else "") + text[start:] for text in (old, new)]
    was, now = (text if len(text) <= 80 else text[:77] + "..." for text in texts)
    return was, now
