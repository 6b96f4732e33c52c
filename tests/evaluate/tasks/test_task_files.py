from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.core.errors import UserError
from evomerge.evaluate.tasks.task_files import MAX_BYTES, broken_files, check_folders, code_in


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("task: a\nprocess_docs: !function utils.process\n", "!function utils.process"),
        ("task: a\nfilter_list:\n  - filter:\n      - custom: !function u.F\n", "!function u.F"),
        ("task: a\nclass: mine.Task\n", "class: mine.Task"),
        ("task: a\nunsafe_code: true\n", "unsafe_code: true"),
        ("task: a\nmetric_list:\n  - {metric: m, hf_evaluate: true}\n", "hf_evaluate: true"),
        ("task: a\nx: !!python/object/apply:os.getcwd []\n", "python/object/apply:os.getcwd"),
        ("task: a\nx: !python/name:os.system ''\n", "!python/name:os.system"),
    ],
)
def test_a_task_file_that_runs_code_is_named(tmp_path: Path, text: str, named: str) -> None:
    path = write(tmp_path / "a.yaml", text)
    code = code_in(path)
    assert code is not None
    assert named in code
    assert str(path) in code


@pytest.mark.parametrize(
    "text",
    [
        "task: a\n# !function in a comment\ndoc_to_text: 'say !function aloud'\n",
        "task: a\nunsafe_code: false\nmetric_list:\n  - {metric: m, hf_evaluate: false}\n",
        "base: &b {x: 1}\ntask: a\nother: *b\n",
    ],
)
def test_plain_task_files_need_no_code(tmp_path: Path, text: str) -> None:
    assert code_in(write(tmp_path / "a.yaml", text)) is None


def test_code_is_found_through_includes_even_in_a_ring(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "include: b\ntask: a\n")
    write(tmp_path / "b", "include: [a.yaml, c.yaml]\n")
    write(tmp_path / "c.yaml", "doc_to_text: !function utils.text\n")
    code = code_in(tmp_path / "a.yaml")
    assert code is not None
    assert "c.yaml" in code


def test_an_oversized_task_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "task: a\nx: " + "y" * MAX_BYTES)
    with pytest.raises(UserError, match=r"at most 1000000 bytes: .*a\.yaml has 1000011"):
        code_in(path)


def test_broken_files_are_listed_with_their_fault(tmp_path: Path) -> None:
    write(tmp_path / "good.yaml", "task: a\n")
    bad = write(tmp_path / "bad.yaml", "task: [a\n")
    assert list(broken_files([tmp_path])) == [bad]


def test_an_include_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "task: a\n")
    with pytest.raises(UserError, match=r"a\.yaml' is a file"):
        check_folders([path])
    with pytest.raises(UserError, match="missing' is nothing there"):
        check_folders([tmp_path / "missing"])
