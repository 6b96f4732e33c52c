"""A refused resume changes nothing; a project that moved goes on; secrets break no comparison."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import evomerge as em
from evomerge.core.errors import UserError
from evomerge.study import study as study_module
from evomerge.study.config import StudyConfig
from evomerge.study.study import JOURNAL, Study
from tests.study.small_study import InProcessPool, events, finished_study, paid, real_study


class Interrupted(Exception):
    """Ends a study in its middle."""


class InterruptedPool(InProcessPool):
    """The worker of a study that is interrupted while it answers."""

    def restart(self, worker: int) -> None:
        """Nobody waits for its answer any more."""
        del worker


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_module, "open_pool", InterruptedPool)


@pytest.fixture
def home(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project: study file, models and tasks, with relative paths."""
    whole = real_study(tmp_path_factory.getbasetemp() / "real-study").parent
    home = tmp_path / "here"
    home.mkdir()
    for name in ("zoo", "tasks"):
        shutil.copytree(whole / name, home / name)
    document = json.loads((whole / "study.yaml").read_text())
    document["search"]["trials"] = 8
    (home / "study.yaml").write_text(json.dumps(document))
    return home


def change(home: Path, **sections: Any) -> None:
    """Change keys of the study file's sections."""
    document = json.loads((home / "study.yaml").read_text())
    for key, value in sections.items():
        document[key] = {**document[key], **value} if isinstance(value, dict) else value
    (home / "study.yaml").write_text(json.dumps(document))


def study_of(home: Path, listener: Any = None, allow_changed: bool = False) -> Study:
    config = StudyConfig.from_yaml(home / "study.yaml")
    return Study(config, home / "run", listener, allow_changed=allow_changed)


def interrupted(home: Path, after: int = 30) -> bytes:
    """Run a study up to its so-manyth event; returns the journal."""
    count = 0

    def listener(*_: object) -> None:
        nonlocal count
        count += 1
        if count == after:
            raise Interrupted

    with pytest.raises(Interrupted):
        study_of(home, listener).confirm()
    return (home / "run" / JOURNAL).read_bytes()


def without_openings(journal: bytes) -> list[bytes]:
    """The frames of a journal but those that say that it was opened."""
    return [line for line in journal.splitlines() if b'"event":"opened"' not in line]


def refused(home: Path, match: str, allow_changed: bool = False) -> None:
    """The study is refused, and its journal stays as it was."""
    before = (home / "run" / JOURNAL).read_bytes()
    with pytest.raises(UserError, match=match):
        study_of(home, allow_changed=allow_changed).confirm()
    assert without_openings((home / "run" / JOURNAL).read_bytes()) == without_openings(before)


def test_a_project_that_moved_goes_on_to_the_same_end(home: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(home, whole)
    expected = study_of(whole).confirm()
    interrupted(home)
    there = home.rename(tmp_path / "there")
    study = study_of(there)
    judged = study.confirm()
    assert dict(judged.scores) == dict(expected.scores)
    assert judged.improvement_shown == expected.improvement_shown
    assert [t.name for t in study.trials] == [t.name for t in study_of(whole).trials]
    (moved,) = events(there / "run", "moved")
    assert moved["paths"][str(home / "zoo/base")] == str(there / "zoo/base")
    assert "/here/" not in (there / "run/best/recipe.yaml").read_text()
    assert sum(paid(there / "run").values()) == sum(paid(whole / "run").values())
    again = em.load_study(there / "run")  # by the paths that hold now
    assert again.confirm().scores == judged.scores


@pytest.mark.slow
def test_a_project_that_moved_twice_and_back_goes_on(home: Path, tmp_path: Path) -> None:
    interrupted(home, 12)
    there = home.rename(tmp_path / "there")
    interrupted(there, 12)
    home = there.rename(home)
    assert study_of(home).confirm().winner is not None
    assert len(events(home / "run", "moved")) == 2
    with_all = study_of(home).confirm()
    assert len(events(home / "run", "moved")) == 2
    assert with_all.winner is not None


def test_models_that_were_renamed_are_known_by_their_content(home: Path) -> None:
    interrupted(home)
    (home / "zoo/one").rename(home / "zoo/first")
    change(home, models=["zoo/first", "zoo/two"])
    study_of(home).confirm()
    assert len(events(home / "run", "moved")) == 1


@pytest.mark.parametrize("allow_changed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_other_models_in_their_place_are_refused(home: Path, allow_changed: bool) -> None:
    interrupted(home)
    shutil.copytree(home / "zoo/hidden", home / "zoo/three")
    change(home, models=["zoo/three", "zoo/two"])
    refused(home, r"another study: \S*/zoo/one is now \S*/zoo/three, wi", allow_changed)
    change(home, models=["zoo/two", "zoo/one"])  # in another order, which decides what is asked
    refused(home, "began with another study", allow_changed)
    change(home, models=["zoo/one", "zoo/two"])
    study_of(home).confirm()
    assert not events(home / "run", "moved")


def test_a_refused_allow_changed_leaves_the_journal_as_it_was(home: Path) -> None:
    interrupted(home)
    original = (home / "study.yaml").read_text()
    weights = home / "zoo/one/model.safetensors"
    content = weights.read_bytes()
    shutil.copy(home / "zoo/two/model.safetensors", weights)
    change(home, search={"seed": 77})
    refused(home, r"study\.search\.seed was 3, now 77")
    refused(home, "a parent's weights changed since this study began", allow_changed=True)
    weights.write_bytes(content)
    (home / "study.yaml").write_text(original)
    study_of(home).confirm()
    assert not events(home / "run", "changed")


@pytest.mark.slow
def test_tasks_that_moved_and_changed_are_refused(home: Path) -> None:
    interrupted(home)
    shutil.copytree(home / "tasks", home / "others")
    file = home / "others" / "small_choice.yaml"
    file.write_text(file.read_text().replace("{{prompt}}", "Say {{prompt}}"))
    change(home, evaluate={"include_path": ["others"]})
    refused(home, "the tasks changed since this study began", allow_changed=True)
    shutil.rmtree(home / "others")
    shutil.copytree(home / "tasks", home / "others")
    study_of(home).confirm()
    assert len(events(home / "run", "moved")) == 1


def test_a_secret_that_is_a_part_of_a_path_breaks_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = home.rename(tmp_path / "postgres")
    monkeypatch.setenv("POSTGRES_PASSWORD", "postgres")
    monkeypatch.setenv("TASK_KEY", "small_choice")
    interrupted(home)
    assert b"[redacted]" not in (home / "run" / JOURNAL).read_bytes()
    monkeypatch.delenv("POSTGRES_PASSWORD")
    interrupted(home, 8)
    monkeypatch.setenv("POSTGRES_PASSWORD", "postgres")
    judged = em.load_study(home / "run").confirm()
    assert set(judged.scores["winner"]) == {"small_choice", "small_write"}
    assert not events(home / "run", "changed")


@pytest.mark.slow
def test_a_journal_whose_paths_an_earlier_version_cut_goes_on(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evomerge.study.journal.frames import encode

    home = home.rename(tmp_path / "postgres")
    interrupted(home)
    lines = []
    for event in events(home / "run"):
        if event["event"] == "study":
            event["config"] = json.loads(
                json.dumps(event["config"]).replace("/postgres/", "/[redacted]/")
            )
        lines.append(encode(event))
    (home / "run" / JOURNAL).write_bytes(b"".join(lines))
    for value in ("postgres", ""):
        monkeypatch.setenv("POSTGRES_PASSWORD", value)
        interrupted(home, 6)
    judged = study_of(home).confirm()
    assert set(judged.scores["winner"]) == {"small_choice", "small_write"}


def test_a_true_secret_is_left_out_compared_by_its_hash_and_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def study_with(note: str) -> Study:
        space = em.SearchSpace.from_yaml("task_arithmetic_by_depth").bind("base", ["one", "two"])
        options = {"user": [{"note": note}]}
        evaluate = em.LMEval(["task"], engine="vllm", engine_options=options)
        return em.create_study(space, evaluate, tmp_path / "run", trials=100)

    monkeypatch.setenv("SERVICE_PASSWORD", "correct-horse-battery")
    with study_with("key correct-horse-battery") as study:
        study.tell(study.ask(), 0.5)
    journal = (tmp_path / "run" / JOURNAL).read_bytes()
    assert b"correct-horse" not in journal
    assert b"key [redacted]" in journal
    for value in ("", "correct-horse-battery"):
        monkeypatch.setenv("SERVICE_PASSWORD", value)
        with study_with("key correct-horse-battery") as study:
            study.tell(study.ask(), 0.5)
    with (
        study_with("key another-horse-battery") as study,
        pytest.raises(UserError, match=r"engine_options\.user\[0\]\.note was key \[redacted\]"),
    ):
        study.ask()
    with (
        em.load_study(tmp_path / "run") as study,
        pytest.raises(UserError, match=r"options\.user\[0\]\.note holds a secret, which the jou"),
    ):
        study.ask()
    assert b"correct-horse" not in (tmp_path / "run" / JOURNAL).read_bytes()


def test_the_finished_study_of_these_tests_needs_none_of_this(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    run = finished_study(tmp_path_factory.getbasetemp() / "real-study")
    assert not events(run, "moved")
    assert not events(run, "changed")
