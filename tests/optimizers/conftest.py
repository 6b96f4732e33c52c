"""Fixtures that several tests of optimizers share."""

import optuna
import pytest

from tests.optimizers.test_conformance import make

__all__ = ["make", "studies"]


@pytest.fixture
def studies(monkeypatch):
    """Every study that Optuna makes meanwhile."""
    made, create_study = [], optuna.create_study

    def create_and_note(**options):
        made.append(create_study(**options))
        return made[-1]

    monkeypatch.setattr(optuna, "create_study", create_and_note)
    return made
