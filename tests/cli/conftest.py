"""Runs of commands in this process, with stub workers or with the real evaluator."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from evomerge.cli import main, preflight
from evomerge.study import study as study_module
from tests.study.small_study import (
    InProcessPool,
    StubWorkers,
    copied_study,
    real_study,
    stub_document,
)
from tests.study.study_driver import Drivers, drivers_of_session


@dataclass(frozen=True)
class Said:
    """The exit code of a command and its output."""

    code: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def evomerge(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run a command in this process."""
    previous_handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object) -> Said:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    yield run
    signal.signal(signal.SIGTERM, previous_handler)


@pytest.fixture
def stub_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StubWorkers:
    """Local pools start stub workers."""
    return StubWorkers(monkeypatch, tmp_path)


@pytest.fixture
def stub_study(stub_workers: StubWorkers, tmp_path: Path) -> Callable[..., Path]:
    """Writes a study file for stub workers, with sections changed."""
    del stub_workers

    def write(**sections: Any) -> Path:
        file = tmp_path / "study.yaml"
        file.write_text(json.dumps(stub_document(**sections)))
        return file

    return write


@pytest.fixture
def real_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real evaluator answers, in this process."""
    monkeypatch.setattr(study_module, "open_pool", InProcessPool)
    monkeypatch.setattr(preflight, "open_pool", InProcessPool)


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small study's models, never to be changed."""
    return real_study(tmp_path_factory.getbasetemp() / "real-study").parent / "zoo"


@pytest.fixture
def small_study(tmp_path: Path, zoo: Path) -> Callable[..., Path]:
    """Writes the small study with its models and tasks, with keys changed, into a folder."""
    return partial(copied_study, zoo.parent, tmp_path / "small")


@pytest.fixture(scope="session")
def drivers() -> Iterator[Drivers]:
    """A server that forks commands."""
    server = drivers_of_session()
    yield server
    server.close()
