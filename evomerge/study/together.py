"""Decides whether a search scores its candidates side by side, as sums of adapters."""

from __future__ import annotations

from evomerge.checkpoint.names import split
from evomerge.core.errors import UserError
from evomerge.study.context import StudyRun
from evomerge.study.workers.requests import Suited, SuitTogether


def goes_together(study: StudyRun) -> bool:
    """Return whether `evaluate.adapters` and the first generation's trials let them go together.

    A worker compares scores of both kinds first. The answer depends on nothing that changes when
    a study is resumed: the recipe, the model's shape, and how many tokens the first items have.

    Raises:
        UserError: `evaluate.adapters` asks for it, and it cannot be.
    """
    evaluate, first = study.config.evaluate, study.record.generations[0]
    has_adapters = any(split(model)[1] is not None for model in study.config.models)
    if evaluate.adapters == "built" or (evaluate.adapters is None and not has_adapters):
        return False
    recipe = study.record.trials[first.trials[0]].recipe
    request = SuitTogether(recipe, first.items or {}, evaluate.fitness)
    suited = study.ledger.request(request, Suited)
    if evaluate.adapters == "together" and not suited.possible:
        raise UserError(
            f"evaluate.adapters: expected candidates that can be scored together, but "
            f"{suited.why_not}; leave it out"
        )
    return suited.possible if evaluate.adapters == "together" else not suited.why_not
