"""Commands in this process, and a small study with real models in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import drivers, evomerge, real_workers, stub_study, stub_workers, zoo
from tests.cli.conftest import small_study as write_small_study

__all__ = ["drivers", "evomerge", "real_workers", "stub_study", "stub_workers"]
__all__ += ["write_small_study", "zoo"]


@pytest.fixture
def small_study_file(write_small_study: Callable[..., Path]) -> Path:
    """The file of a small study, for processes of their own."""
    return write_small_study()


@pytest.fixture
def small_study(real_workers: None, write_small_study: Callable[..., Path]) -> Path:
    """The file of a small study, whose models and tasks a test may change; scored in-process."""
    del real_workers
    return write_small_study()
