"""`evomerge search` with stub workers in a process of its own, that a test may stop or kill."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from evomerge.study.study import JOURNAL, Study
from tests.study.small_study import (
    StubWorkers,
    stub_config,
    stub_document,
    stub_executable,
    substance,
)
from tests.study.study_driver import Drivers

SMALL: dict[str, Any] = {"models": ["one"], "search": {"trials": 8}}


def undisturbed(tmp_path_factory: pytest.TempPathFactory, sections: dict[str, Any]) -> Any:
    """What the run of a study with stub workers says that nothing happened to."""
    run = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        StubWorkers(patch, tmp_path_factory.mktemp("stub"))
        Study(stub_config(**sections), run).confirm()
    return substance(run)


class Command:
    """`evomerge search` in a process of its own, with stub workers."""

    def __init__(self, drivers: Drivers, folder: Path, sections: Any = None, **settings: Any):
        self.drivers, self.folder, self.settings = drivers, folder, settings
        self.run = folder / "run"
        folder.mkdir(exist_ok=True)
        (folder / "study.yaml").write_text(json.dumps(stub_document(**(sections or SMALL))))

    def start(self, fault: str = "", *more: str, torn: Any = None) -> int:
        return self.drivers.start(
            arguments=["search", str(self.folder / "study.yaml"), str(self.run), *more],
            executable=stub_executable(self.folder),
            environment={
                "STUB_WORKER": json.dumps({"seconds": 0.002, **self.settings}),
                "EVOMERGE_FAULT": fault,
            },
            log=self.folder / "output",
            torn=torn,
        )

    def finish(self, fault: str = "", *more: str) -> int:
        self.start(fault, *more)
        return self.drivers.wait()

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()

    def wait_for_events(self, count: int) -> None:
        deadline = time.monotonic() + 60
        journal = self.run / JOURNAL
        while not journal.exists() or journal.read_bytes().count(b"\n") < count:
            assert time.monotonic() < deadline, self.output
            time.sleep(0.002)
