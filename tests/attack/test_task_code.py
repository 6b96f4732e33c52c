"""Python of a task folder never runs unless it was allowed, however the files hide it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from evomerge.core.errors import UserError
from evomerge.evaluate.tasks import task_index
from evomerge.evaluate.tasks.harness import Harness

TASK = """task: hidden
output_type: generate_until
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
doc_to_text: '{{q}}'
doc_to_target: '{{a}}'
generation_kwargs: {until: ['.'], max_gen_toks: 3}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
TRICKS: dict[str, str | bytes] = {
    "included": TASK + "include: evil.yaml\n",
    "the key twice, the last counts": "include: plain.yaml\n" + TASK + "include: evil.yaml\n",
    "the key twice, the first counts": "include: evil.yaml\n" + TASK + "include: plain.yaml\n",
    "a merge key": TASK + "<<: {include: evil.yaml}\n",
    "a list of merge keys": TASK + "<<: [{x: 1}, {include: [plain.yaml, evil.yaml]}]\n",
    "an anchor": "y: &evil evil.yaml\n" + TASK + "include: *evil\n",
    "the key behind an anchor": "y: &key include\n" + TASK + "*key : evil.yaml\n",
    "a merged anchor": "y: &m {include: evil.yaml}\n" + TASK + "<<: *m\n",
    "one anchor under two keys": "y: &f [evil.yaml]\n" + TASK + "include: *f\n",
    "a tagged text": TASK + "include: !!str evil.yaml\n",
    "a whole path": TASK + "include: FOLDER/evil.yaml\n",
    "by way of another": TASK + "include: way.yaml\n",
    "UTF-16": (TASK + "include: evil.yaml\n").encode("utf-16"),
    "a function of its own": TASK + "process_docs: !function evil.f\n",
    "a function that is installed": TASK + "process_docs: !function os.getcwd\n",
    "a class": TASK + "class: !function evil.f\n",
    "a list of functions": TASK
    + "filter_list: [{name: x, filter: [{function: !function evil.f}]}]\n",
    "a metric that is a folder": TASK.replace("exact_match", "FOLDER/evil_metric"),
}
GROUPS = {
    "by its name": "group: all\ntask: [coded]\n",
    "with other keys": "group: all\ntask: [{task: coded, num_fewshot: 0}]\n",
    "with a dataset": "group: all\ntask: [{task: coded, dataset_path: json}]\n",
    "by way of a group": "group: all\ntask: [{group: inner}]\n",
    "in a group inside": "group: all\ntask: [{group: g, task: [{group: h, task: [coded]}]}]\n",
    "in a ring": "group: all\ntask: [all, ring]\n",
}
Folder = Callable[[str, str | bytes], Path]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A task folder whose Python leaves a file CANARY behind when it runs."""
    canary = f"open({str(tmp_path / 'CANARY')!r}, 'w').close()\n"
    rows = [json.dumps({"q": f"q{i}", "a": "x"}) for i in range(20)]
    (tmp_path / "d.jsonl").write_text("\n".join(rows))
    (tmp_path / "plain.yaml").write_text("x: 1\n")
    (tmp_path / "way.yaml").write_text("include: evil.yaml\n")
    (tmp_path / "evil.yaml").write_text("process_docs: !function evil.f\n")
    (tmp_path / "evil.py").write_text(canary + "def f(d):\n    return d\n")
    (tmp_path / "evil_metric").mkdir()
    (tmp_path / "evil_metric" / "evil_metric.py").write_text(canary)
    return tmp_path


def write(folder: Path, name: str, text: str | bytes) -> None:
    """Write a task file, with its data and the folder in their places."""
    encoding = "utf-16" if isinstance(text, bytes) else "utf-8"
    plain = text.decode("utf-16") if isinstance(text, bytes) else text
    plain = plain.replace("DATA", str(folder / "d.jsonl")).replace("FOLDER", str(folder))
    (folder / name).write_text(plain, encoding=encoding)


@pytest.mark.parametrize("trick", TRICKS)
def test_hidden_code_is_refused_and_does_not_run(folder: Path, trick: str) -> None:
    write(folder, "hidden.yaml", TRICKS[trick])
    with pytest.raises(UserError, match=r"hidden|evil"):
        Harness.load(["hidden"], [folder])
    assert not (folder / "CANARY").exists()


@pytest.mark.parametrize("trick", TRICKS)
def test_code_that_the_reader_missed_cannot_be_imported(
    folder: Path, trick: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, "hidden.yaml", TRICKS[trick])
    monkeypatch.setattr(task_index, "code_in", lambda _: None)
    with pytest.raises(UserError):
        Harness.load(["hidden"], [folder])
    assert not (folder / "CANARY").exists()


@pytest.mark.parametrize("way", GROUPS)
def test_code_in_a_group_is_refused_by_the_name_of_its_task(folder: Path, way: str) -> None:
    coded = TASK.replace("task: hidden", "task: coded") + "process_docs: !function evil.f\n"
    write(folder, "coded.yaml", coded)
    write(folder, "inner.yaml", "group: inner\ntask: [coded]\n")
    write(folder, "ring.yaml", "group: ring\ntask: [all, coded]\n")
    write(folder, "all.yaml", GROUPS[way])
    with pytest.raises(UserError, match="task 'coded' runs code of its own"):
        Harness.load(["all"], [folder])
    assert not (folder / "CANARY").exists()


def test_allowed_code_runs_and_is_hashed_wherever_it_lies(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "beside.py").write_text("def f(d):\n    return d\n")
    (other / "far.yaml").write_text("process_docs: !function beside.f\n")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    write(
        tasks,
        "hidden.yaml",
        TASK.replace("DATA", str(folder / "d.jsonl")) + "include: ../other/far.yaml\n",
    )
    harness = Harness.load(["hidden"], [tasks], allow_task_code=True)
    assert str(other / "beside.py") in harness.describe()["code"]
    assert len(harness.items["hidden"]) == 20


def test_the_lock_is_open_again_after_a_refusal(folder: Path) -> None:
    write(folder, "hidden.yaml", TASK + "process_docs: !function evil.f\n")
    with pytest.raises(UserError, match="runs code of its own"):
        Harness.load(["hidden"], [folder])
    Harness.load(["hidden"], [folder], allow_task_code=True)
    assert (folder / "CANARY").exists()
