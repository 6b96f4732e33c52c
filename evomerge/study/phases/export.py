"""Exports a finished study: its verdict, the recommended recipe, and the model built from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evomerge.core.atomic import remove, user_errors, write_text
from evomerge.merge.output.merged_adapter import are_adapters
from evomerge.recipe.recipe import Recipe
from evomerge.study.context import StudyRun
from evomerge.study.journal.codec import to_json
from evomerge.study.journal.events import ExportedEvent
from evomerge.study.journal.exports import AdapterExport, ModelExport
from evomerge.study.own_rows import copied
from evomerge.study.phases.examples import write_examples
from evomerge.study.statistics.verdict import Verdict
from evomerge.study.workers.requests import (
    Evaluate,
    Export,
    ExportAdapter,
    Exported,
    ExportedAdapter,
    Scores,
    Translate,
    Translation,
)


def export(study: StudyRun, judged: Verdict) -> None:
    """Write the verdict, the recommended recipe and its model to the run folder.

    Args:
        study: The study, whose journal has the verdict.
        judged: The verdict.

    Raises:
        RuntimeError: The exported weights differ from those that were scored.
    """
    trial = study.record.winner
    assert trial is not None, "the verdict comes before the export"
    recipe = Recipe.from_dict(trial.recipe)
    best = study.directory / "best"
    with user_errors(best):
        best.mkdir(exist_ok=True)
        _sweep(best)
        write_text(best / "recipe.yaml", copied(recipe, best).to_yaml())
    _write_verdict(study, judged, None)
    write_examples(study)
    translated = study.ledger.request(Translate(trial.recipe), Translation)
    if translated.mergekit is not None:
        with user_errors(best):
            write_text(best / "mergekit.yaml", translated.mergekit)
    else:
        (best / "mergekit.yaml").unlink(missing_ok=True)  # an earlier winner's
    digest, model, contents = None, None, None
    if study.config.output.save_model:
        task, ids = next(iter(study.pools["holdout"].items()))
        one_item = Evaluate(trial.recipe, [{task: ids[:1]}], "metric", digest=True)
        scored_digest = study.ledger.request(one_item, Scores).weights_digest
        assert scored_digest is not None
        request = Export(trial.recipe, str((best / "model").resolve()))
        exported, model = study.ledger.request(request, Exported), "best/model"
        digest, contents = exported.weights_digest, ModelExport(**exported.contents)
        if digest != scored_digest:
            raise RuntimeError(
                f"the exported weights ({digest[:12]}) are not those that were scored "
                f"({scored_digest[:12]}): {best / 'model'} is not to be trusted"
            )
    adapter = _export_adapter(study, trial.recipe)
    _write_verdict(study, judged, adapter, contents)
    past = study.record.exported
    done = ExportedEvent(
        trial=trial.number,
        model=model,
        weights_digest=digest,
        no_mergekit=translated.why_not,
        adapter=adapter,
        contents=contents,
    )
    if past is None or replace(past, time=None) != done:
        study.ledger.log(done)


def _export_adapter(study: StudyRun, recipe: Mapping[str, Any]) -> AdapterExport | None:
    """Write what the recipe changes of the base as an adapter, if one is wanted."""
    config, folder = study.config, study.directory / "best" / "adapter"
    rank = config.output.adapter_rank
    wanted = bool(rank) if rank is not None else are_adapters(config.base_model, config.models)
    answer = None
    if wanted:
        request = ExportAdapter(recipe, str(folder.resolve()), rank)
        answer = study.ledger.request(request, ExportedAdapter)
    if answer is None or answer.no_adapter is not None:
        with user_errors(folder):
            remove(folder)  # an earlier winner's
    if answer is None:
        return None
    if answer.no_adapter is not None:
        return AdapterExport(None, 0, rank, sentence=answer.no_adapter)
    about = (answer.exact, answer.error, answer.sentence)
    return AdapterExport("best/adapter", answer.rank, rank, *about)


def _write_verdict(
    study: StudyRun,
    judged: Verdict,
    adapter: AdapterExport | None,
    contents: ModelExport | None = None,
) -> None:
    """Write verdict.json, with the model's size and code, and the adapter's rank and error."""
    document = to_json(judged)
    if contents is not None:
        document["model"] = to_json(contents)
    if adapter is not None:
        document["adapter"] = to_json(adapter)
    file = study.directory / "verdict.json"
    with user_errors(file):
        write_text(file, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def _sweep(folder: Path) -> None:
    """Remove half-written files of a killed export; nobody else writes to this folder."""
    for partial in folder.glob(".*.partial-*"):
        remove(partial)
