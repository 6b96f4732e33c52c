"""Stub workers, drivers that can be killed, and one finished study with real models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.study.small_study import StubWorkers, finished_study, real_study
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


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of that study, run to its end in this process."""
    return finished_study(tmp_path_factory.getbasetemp() / "real-study")
