"""`evomerge demo` refuses an option before it trains anything, or where it would have no effect."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.demo.study_file import write_study
from evomerge.demo.zoo import Zoo
from tests.cli.conftest import Run


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--optimizer", "catcmaa", "did you mean 'catcma'"), ("--space", "nowhere", "nowhere")],
)
def test_a_wrong_option_is_refused_before_anything_is_trained(
    evomerge: Run, tmp_path: Path, option: str, value: str, message: str
) -> None:
    said = evomerge("demo", tmp_path / "demo", option, value)
    assert said.code == 2
    assert message in said.err
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(
    ("option", "value"), [("--trials", 500), ("--optimizer", "cmaes"), ("--seed", 3)]
)
def test_an_option_that_differs_from_an_earlier_study_file_is_refused(
    evomerge: Run, tmp_path: Path, option: str, value: object
) -> None:
    experts = {name: tmp_path / "zoo" / name for name in ("a", "b")}
    folder = tmp_path / "zoo"
    zoo = Zoo(folder, folder / "base", experts, folder / "tasks", ("demo_sort",))
    write_study(zoo, tmp_path / "study.yaml")
    said = evomerge("demo", tmp_path, option, value)
    assert said.code == 2
    assert f"{option}: {tmp_path / 'study.yaml'} says" in said.err
    assert f"but got {value}" in said.err
    assert not (tmp_path / "zoo").exists()
