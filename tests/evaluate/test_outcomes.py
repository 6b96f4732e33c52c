from __future__ import annotations

import json
import pickle

import pytest

from evomerge.evaluate.outcomes import NonFiniteError, Outcome


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome("sort", 3, metric=1.0),
        Outcome("sort", 0, smooth=0.25, truncated=True, extracted=False),
        Outcome("a,b", 7, metric=0.1 + 0.2, smooth=1 / 3),
    ],
)
def test_an_outcome_survives_json_unchanged(outcome: Outcome) -> None:
    assert Outcome.from_row(json.loads(json.dumps(outcome.to_row()))) == outcome


def test_the_row_of_an_outcome_is_pinned() -> None:
    outcome = Outcome("sort", 3, metric=1.0, smooth=None, truncated=True, extracted=False)
    assert json.dumps(outcome.to_row()) == '["sort", 3, 1.0, null, 1, 0]'


@pytest.mark.parametrize("row", [[], ["sort", "3", 1.0, None, 0, 1], ["sort", 3, 1.0, None, 0]])
def test_a_row_of_another_shape_is_refused(row: list) -> None:
    with pytest.raises(ValueError, match="an outcome row is"):
        Outcome.from_row(row)


def test_a_non_finite_error_names_the_item_and_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(NonFiniteError("sort", 3)))
    assert (error.task, error.doc_id) == ("sort", 3)
    assert str(error) == "the model's logits are not finite on task 'sort', document 3"
