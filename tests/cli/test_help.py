"""Help comes at once, and the arguments are what the README says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from evomerge import __version__
from tests.cli.conftest import Run

ROOT = Path(__file__).parents[2]
COMMANDS = [
    *(
        "demo",
        "init",
        "search",
        "check",
        "status",
        "report",
        "build",
        "export",
        "methods",
        "spaces",
    ),
    *("completion", "optimizers", "schema"),
    *("watch", "dashboard", "push"),
]


def test_help_takes_less_than_half_a_second_and_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom evomerge.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'transformers', 'lm_eval', 'ray', 'numpy', 'yaml', 'rich', 'optuna'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    before = os.times()
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    after = os.times()
    assert result.returncode == 0, result.stderr
    for command in COMMANDS:
        assert f"\n    {command} " in result.stdout
    lines = result.stdout.splitlines()
    assert len(lines) <= 45, "help fits one screen"
    assert max(map(len, lines)) <= 80
    spent = after.children_user + after.children_system
    assert spent - before.children_user - before.children_system < 0.5


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    from evomerge.cli import main

    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert f"usage: evomerge {command}" in capsys.readouterr().out


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    from evomerge.cli import main

    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"evomerge {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serach"], "unknown command 'serach': did you mean search?"),
        (["frobnicate"], "unknown command 'frobnicate'; `evomerge --help` lists all"),
        (["help", "serach"], "unknown command 'serach': did you mean search?"),
        (["search"], "the following arguments are required: STUDY.yaml, RUN"),
        (["search", "a", "b", "--trials", "0"], "expected a whole number >= 1, but got 0"),
        (["search", "a", "b", "--trials", "many"], "expected a whole number >= 1, but got many"),
        (
            ["search", "a", "b", "--wokers", "2"],
            "unrecognized arguments: --wokers 2: did you mean --worke",
        ),
        (["search", "a", "b", "--trial", "2"], "unrecognized arguments: --trial 2: did you mean"),
    ],
)
def test_wrong_arguments_end_with_code_2(
    evomerge: Run, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        evomerge(*arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_evomerge_alone_shows_the_few_commands_that_a_study_takes(evomerge: Run) -> None:
    result = evomerge()
    assert result.code == 0
    for command in ("demo", "init", "check", "search", "status"):
        assert f"\n  evomerge {command} " in result.out
    assert max(map(len, result.out.splitlines())) <= 90


def test_help_of_a_command_is_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    from evomerge.cli import main

    with pytest.raises(SystemExit) as end:
        main(["help", "check"])
    assert end.value.code == 0
    assert "usage: evomerge check" in capsys.readouterr().out
