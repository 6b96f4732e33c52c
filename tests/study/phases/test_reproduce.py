"""The command that reproduces a verdict names every task, its folder, and a model that exists."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from lm_eval._cli.harness import HarnessCLI

from evomerge.study.config import StudyConfig
from evomerge.study.phases.reproduce import reproduce
from tests.study.small_study import stub_config, stub_document

ITEMS = {"stub_choice": [4, 1], "stub_write": [7]}
FILES = {
    "one": "task: stub_choice\n",
    "two": 'group: both\ntask:\n  - task: "stub_write"  # mine\n',
}


def folders(tmp_path: Path) -> list[str]:
    for name, text in FILES.items():
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "task.yaml").write_text(text)
    return [str(tmp_path / name) for name in FILES]


def options(command: str) -> dict[str, str]:
    words = shlex.split(command)
    assert words[:3] == ["lm_eval", "--model", "hf"]
    return dict(zip(words[1::2], words[2::2], strict=True))


def test_tasks_of_two_folders_take_two_commands(tmp_path: Path) -> None:
    config = stub_config(evaluate={"include_path": folders(tmp_path), "num_fewshot": 2})
    command = reproduce(config, tmp_path / "model", ITEMS)
    assert command is not None
    one, two = map(options, command.split(" && "))
    assert (one["--tasks"], one["--include_path"]) == ("stub_choice", str(tmp_path / "one"))
    assert (two["--tasks"], two["--include_path"]) == ("stub_write", str(tmp_path / "two"))
    assert (one["--samples"], two["--samples"]) == ('{"stub_choice":[1,4]}', '{"stub_write":[7]}')
    assert one["--num_fewshot"] == two["--num_fewshot"] == "2"
    assert one["--model_args"].startswith(f"pretrained={tmp_path / 'model'},dtype=")


def test_tasks_of_one_folder_and_lm_evals_own_take_one(tmp_path: Path) -> None:
    for include in ([], folders(tmp_path)[:1]):
        command = reproduce(stub_config(evaluate={"include_path": include}), tmp_path, ITEMS)
        assert command is not None
        assert options(command)["--tasks"] == "stub_choice,stub_write"
        assert options(command).get("--include_path") == (include[0] if include else None)


def test_without_a_model_there_is_nothing_to_reproduce_with(tmp_path: Path) -> None:
    config = stub_config(output={"save_model": False})
    assert reproduce(config, tmp_path, ITEMS) is None


def test_what_it_leaves_out_and_what_is_drawn_anew_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [{"name": "stub_choice"}, {"name": "stub_write"}, {"name": "prose", "text": "p.txt"}]
    config = StudyConfig.from_dict(
        stub_document(
            evaluate={
                "tasks": tasks,
                "apply_chat_template": True,
                "fewshot_as_multiturn": False,
                "system_instruction": "be 'short'",
                "gen_kwargs": {"until": ["\n"], "temperature": 0.7},
                "fewshot_seed": 3,
                "model_args": {"add_bos_token": True},
            }
        ),
        text_folder(tmp_path),
    )
    printed = reproduce(config, tmp_path / "model", {**ITEMS, "prose": [0]}, ["stub_write"])
    assert printed is not None
    command, _, comment = printed.partition("  # ")
    assert comment == (
        "left out, since they are not lm_eval's: prose; drawn at random, so other numbers: "
        "stub_write"
    )
    arguments = lm_eval_arguments(shlex.split(command)[1:], monkeypatch)
    assert arguments.model_args == {
        "pretrained": str(tmp_path / "model"),
        "dtype": "bfloat16",
        "add_bos_token": True,
    }
    assert arguments.gen_kwargs == {"until": ["\n"], "temperature": 0.7}
    assert arguments.system_instruction == "be 'short'"
    assert (arguments.apply_chat_template, arguments.fewshot_as_multiturn) == (True, False)
    assert arguments.seed == [0, 1234, 1234, 3]


def text_folder(folder: Path) -> Path:
    (folder / "p.txt").write_text("prose\n")
    return folder


def lm_eval_arguments(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """What lm_eval itself reads from its command line."""
    monkeypatch.setattr(sys, "argv", ["lm_eval", "run", *words])
    return HarnessCLI().parse_args()


def test_a_model_with_a_file_of_ours_is_loaded_with_its_code(tmp_path: Path) -> None:
    command = reproduce(stub_config(), tmp_path, ITEMS, brings_code=True)
    assert command is not None
    assert options(command)["--model_args"].endswith(",trust_remote_code=True")
