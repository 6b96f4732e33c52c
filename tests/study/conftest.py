"""Stub workers, drivers that can be killed, and one finished study with real models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from evomerge.study import study as study_module
from tests.study.small_study import (
    InProcessPool,
    StubWorkers,
    copied_study,
    finished_study,
    real_study,
)
from tests.study.study_driver import Drivers, drivers_of_session


@pytest.fixture
def stub_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StubWorkers:
    """Local pools start stub workers; call it to say how these behave."""
    return StubWorkers(monkeypatch, tmp_path)


@pytest.fixture(scope="session")
def drivers() -> Iterator[Drivers]:
    """A server that forks drivers."""
    server = drivers_of_session()
    yield server
    server.close()


@pytest.fixture(scope="session")
def small_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study file of a small study with real models."""
    return real_study(tmp_path_factory.getbasetemp() / "real-study")


@pytest.fixture
def own_study(small_study: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes a copy of it, with keys changed, whose models and tasks a test may change."""
    return partial(copied_study, small_study.parent, tmp_path / "own")


@pytest.fixture
def real_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real evaluator answers, in this process."""
    monkeypatch.setattr(study_module, "open_pool", InProcessPool)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of that study, run to its end in this process."""
    return finished_study(tmp_path_factory.getbasetemp() / "real-study")
