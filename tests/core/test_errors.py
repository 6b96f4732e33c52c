"""The wording of unknown names."""

from __future__ import annotations

from evomerge.core.errors import unknown


def test_a_word_that_is_like_no_name_gets_no_suggestion() -> None:
    assert unknown("optimizer", "foo", ["sobol", "catcma"]) == (
        "unknown optimizer 'foo': known: catcma, sobol"
    )
    assert "did you mean 'catcma'?" in unknown("optimizer", "catma", ["sobol", "catcma"])
