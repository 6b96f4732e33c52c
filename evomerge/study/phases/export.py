"""Exports a finished study: its verdict, the recommended recipe, and the model built from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from evomerge.core.atomic import remove, user_errors, write_text
from evomerge.recipe.recipe import Recipe
from evomerge.study.context import StudyRun
from evomerge.study.journal.codec import to_json
from evomerge.study.journal.events import ExportedEvent
from evomerge.study.statistics.verdict import Verdict
from evomerge.study.workers.requests import (
    Evaluate,
    Export,
    Exported,
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
    verdict_text = json.dumps(to_json(judged), indent=1, ensure_ascii=False) + "\n"
    with user_errors(best):
        best.mkdir(exist_ok=True)
        _sweep(best)
        write_text(best / "recipe.yaml", recipe.to_yaml())
        write_text(study.directory / "verdict.json", verdict_text)
    translated = study.ledger.request(Translate(trial.recipe), Translation)
    if translated.mergekit is not None:
        with user_errors(best):
            write_text(best / "mergekit.yaml", translated.mergekit)
    else:
        (best / "mergekit.yaml").unlink(missing_ok=True)  # an earlier winner's
    digest, model = None, None
    if study.config.output.save_model:
        task, ids = next(iter(study.pools["holdout"].items()))
        one_item = Evaluate(trial.recipe, [{task: ids[:1]}], "metric", digest=True)
        scored_digest = study.ledger.request(one_item, Scores).weights_digest
        assert scored_digest is not None
        request = Export(trial.recipe, str((best / "model").resolve()))
        digest, model = study.ledger.request(request, Exported).weights_digest, "best/model"
        if digest != scored_digest:
            raise RuntimeError(
                f"the exported weights ({digest[:12]}) are not those that were scored "
                f"({scored_digest[:12]}): {best / 'model'} is not to be trusted"
            )
    past = study.record.exported
    done = ExportedEvent(
        trial=trial.number, model=model, weights_digest=digest, no_mergekit=translated.why_not
    )
    if past is None or replace(past, time=None) != done:
        study.ledger.log(done)


def _sweep(folder: Path) -> None:
    """Remove half-written files of a killed export; nobody else writes to this folder."""
    for partial in folder.glob(".*.partial-*"):
        remove(partial)
