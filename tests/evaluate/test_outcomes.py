from __future__ import annotations

import json
import pickle

import pytest

from evomerge.evaluate.outcomes import NonFiniteError, OutcomeRow


@pytest.mark.parametrize(
    "outcome",
    [
        OutcomeRow("sort", 3, metric=1.0),
        OutcomeRow("sort", 0, smooth=0.25, truncated=1, extracted=0),
        OutcomeRow("sort", 0, metric=0.0, degenerate=1),
        OutcomeRow("a,b", 7, metric=0.1 + 0.2, smooth=1 / 3),
    ],
)
def test_an_outcome_survives_json_unchanged(outcome: OutcomeRow) -> None:
    assert OutcomeRow(*json.loads(json.dumps(outcome.as_written()))) == outcome


def test_the_written_form_of_an_outcome_is_pinned() -> None:
    outcome = OutcomeRow("sort", 3, metric=1.0, smooth=None, truncated=1, extracted=0)
    assert json.dumps(outcome.as_written()) == '["sort", 3, 1.0, null, 1, 0]'


def test_a_non_finite_error_names_the_item_and_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(NonFiniteError("sort", 3)))
    assert (error.task, error.doc_id) == ("sort", 3)
    assert str(error) == "the model's logits are not finite on task 'sort', document 3"
