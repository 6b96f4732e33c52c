"""Shell completion, asked of the shells themselves where they are installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Run

# Sources the script on standard input, then prints what completes the words.
ASK = {
    "bash": """
source "$1"; COMP_WORDS=(evomerge {words}); COMP_CWORD={last}
COMP_LINE="evomerge {words}"; COMP_POINT=${{#COMP_LINE}}
"$(complete -p evomerge | sed 's/.*-F \\([^ ]*\\).*/\\1/')"; printf '%s\\n' "${{COMPREPLY[@]}}"
""",
    "fish": 'source "$argv[1]"; complete -C "evomerge {words}"',
}


def ask(shell: str, script: Path, words: str, folder: Path) -> str:
    program = ASK[shell].format(words=words, last=len(words.split()))
    flags = ["--noprofile", "--norc", "-c", program, "-"] if shell == "bash" else ["-c", program]
    result = subprocess.run(
        [shell, *flags, str(script)], capture_output=True, text=True, cwd=folder, check=False
    )
    return result.stdout


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_commands_options_and_folders_are_completed(
    evomerge: Run, tmp_path: Path, shell: str
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    script = tmp_path / "script"
    script.write_text(evomerge("completion", shell).out)
    (tmp_path / "runs-one").mkdir()
    assert "status" in ask(shell, script, "sta", tmp_path)
    assert "--deadline" in ask(shell, script, "search --dea", tmp_path)
    assert "runs-one" in ask(shell, script, "status runs", tmp_path)
    assert "dare_ties" in ask(shell, script, "methods dare", tmp_path)
    assert "catcma" in ask(shell, script, "demo --optimizer cat", tmp_path)
    assert "ties_by_depth" in ask(shell, script, "spaces ties", tmp_path)


def test_the_zsh_script_is_valid_zsh(evomerge: Run, tmp_path: Path) -> None:
    script = evomerge("completion", "zsh").out
    assert script.startswith("#compdef evomerge")
    if shutil.which("zsh") is None:
        pytest.skip("needs zsh")
    file = tmp_path / "_evomerge"
    file.write_text(script)
    subprocess.run(["zsh", "-n", str(file)], check=True)


def test_every_shell_that_the_command_takes_has_a_script(evomerge: Run) -> None:
    for shell in ("bash", "zsh", "fish"):
        result = evomerge("completion", shell)
        assert result.code == 0
        assert "search" in result.out
