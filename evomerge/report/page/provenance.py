"""Says where the numbers come from, and which commands reproduce them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from evomerge.core import yaml_file
from evomerge.core.redact import redact
from evomerge.report.numbers import moment, plural, short_names
from evomerge.report.run import Run
from evomerge.study.journal.events import StudyEvent
from evomerge.study.journal.record import Record


def section(run: Run) -> dict[str, Any]:
    """Return facts, fingerprints, configuration, dimensions, commands."""
    study = run.record.study
    if study is None:
        return {"missing": "The study's check has not passed yet; the journal holds no study."}
    config, record = run.config, run.record
    search, evaluate = config["search"], config["evaluate"]
    names = short_names(study.fingerprints)
    exported, verdict = record.exported, record.verdict
    space = config["space"] if isinstance(config["space"], str) else "in the study file"
    facts = [
        ("evomerge", study.version),
        *(
            [("versions", ", ".join(f"{name} {v}" for name, v in study.versions.items()))]
            if study.versions
            else []
        ),
        ("run folder", str(run.folder)),
        ("began", moment(run.sessions[0][0] if run.sessions else None)),
        ("last event", moment(run.sessions[-1][1] if run.sessions else None)),
        ("sessions", str(len(run.sessions))),
        ("optimizer", f"{search['optimizer']}, seed {search['seed']}, {_population(run)}"),
        ("space", f"{space}, {plural(len(study.dimensions), 'dimension')}"),
        ("fitness", f"{evaluate['fitness']}, {_per_generation(evaluate)}"),
        ("items", _pools(run)),
        ("device", _device(study)),
        ("output", f"{config['output']['dtype']}, {_model(record)}"),
        ("protocol", study.protocol),
        *(
            [("weights digest", exported.weights_digest)]
            if exported and exported.weights_digest
            else []
        ),
        *([("adapter", exported.adapter.sentence)] if exported and exported.adapter else []),
        *([("mergekit", exported.no_mergekit)] if exported and exported.no_mergekit else []),
        *([("recommended recipe", verdict.winner.digest)] if verdict else []),
    ]
    folder = shlex.quote(str(run.folder))
    return {
        "facts": facts,
        "warnings": [
            *study.warnings,
            *(w.message for w in record.warnings if w.kind != "correlation"),
        ],
        "fingerprints": [(names[m], m, digest) for m, digest in study.fingerprints.items()],
        "config": redact(yaml_file.write(dict(config))),
        "space": yaml_file.write(dict(study.space)) if study.space else None,
        "resume": f"evomerge search study.yaml {folder}",
        "extend": f"evomerge search study.yaml {folder} --trials {2 * int(search['trials'])}",
        "reproduce": verdict and verdict.reproduce,
        "done": record.phase == "done",
        "disagreements": record.outcomes.disagreements,
    }


def _population(run: Run) -> str:
    sizes = sorted({len(ask.trials) for ask in run.record.generations.values()})
    if not sizes:
        return "no generation yet"
    shown = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return f"{plural(len(run.record.generations), 'generation')} of {shown}"


def _per_generation(evaluate: Mapping[str, Any]) -> str:
    return f"{evaluate['items']['per_generation']} items of each task per generation"


def _pools(run: Run) -> str:
    counts = {pool: sum(map(len, items.values())) for pool, items in run.pools.items()}
    tasks = plural(len(run.tasks), "task")
    return f"{', '.join(f'{pool} {n:,}' for pool, n in counts.items())} (disjoint, {tasks})"


def _device(study: StudyEvent) -> str:
    size = study.parameters
    return f"{study.device}, models of {_big(size)} parameters" if size else study.device


def _model(record: Record) -> str:
    if record.exported is None:
        return "not exported yet"
    return "best/model" if record.exported.model else "recipe only"


def _big(count: int) -> str:
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return str(count)
