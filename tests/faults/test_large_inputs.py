"""Large and hostile files: what the process and the child that reads first take together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evomerge.checkpoint.vocabulary import read_tokenizer
from evomerge.cli import main
from tests.faults import large_inputs
from tests.models import make_family

ROOT = Path(__file__).parents[2]
MEGABYTES = 200
SECONDS = 4.0  # of the processor, each; what is let through takes 1 to 2

# A process without torch. Linux counts what a process held before it became another as the other's,
# so the one that reads is a child of one that holds little.
READER = """
import json, os, resource, sys
reader = os.fork()
if reader:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]))
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from evomerge.checkpoint.sandbox import client
from evomerge.checkpoint.files.folder import read_config
from evomerge.checkpoint.files.header import read_header
from evomerge.checkpoint.vocabulary import read_tokenizer
from evomerge.core.errors import UserError

def peaks():
    kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return [resource.getrusage(kind).ru_maxrss / 1024 for kind in kinds]

folder, began, message = Path(sys.argv[2]), peaks()[0], None
contents = []
try:
    client.inspect([folder])
    contents.append(read_config(folder))
    if (folder / "model.safetensors").is_file():
        contents.append(read_header(folder / "model.safetensors"))
    if client.tokens_of(folder):
        contents.append(read_tokenizer(folder))
except UserError as error:
    message = str(error)
used = [resource.getrusage(kind) for kind in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
seconds = [u.ru_utime + u.ru_stime for u in used]
print(json.dumps([message, peaks()[0] - began, peaks()[1], *seconds]))
"""


def spent(folder: Path) -> tuple[str | None, float, float, float, float]:
    """What is told of a folder; megabytes of the process and of the child; seconds of each."""
    command = [sys.executable, "-S", "-E", "-c", READER, str(ROOT), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not done.stderr, done.stderr
    answer: Any = json.loads(done.stdout)
    return tuple(answer)


def told_of(name: str, folder: Path) -> str:
    """Reads a folder, and holds it to the bounds; a line that tells how it went."""
    message, megabytes, child, seconds, child_seconds = spent(folder)
    where = f"{name}: process {megabytes:.0f} MB, child {child:.0f} MB: {message}"
    # A process holds nothing of a folder while its child reads it, so the larger of both counts,
    # but the sum is what is promised.
    assert child < MEGABYTES, where
    assert megabytes < MEGABYTES - 20, where
    assert max(seconds, child_seconds) < SECONDS, where
    if message is not None:
        assert "\n" not in message
        assert megabytes < 10, where  # what is refused was never parsed here
    how = "read" if message is None else message.replace(str(folder), "")[:90]
    return (
        f"\n{name}: child {child:.0f} MB {child_seconds:.1f} s, process {megabytes:.0f} MB "
        f"{seconds:.1f} s: {how}"
    )


@pytest.mark.slow
def test_hostile_files_take_little_memory_and_time_in_the_process_and_its_child(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, folder in large_inputs.folders(tmp_path):
        line = told_of(name, folder)
        with capsys.disabled():
            print(line, end="")


@pytest.mark.slow
def test_a_command_that_meets_one_ends_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_family(tmp_path / "zoo")
    large_inputs.hostile()["tokenizer.json: 600,000 long wide tokens"](tmp_path / "zoo" / "b")
    models = [{"model": str(tmp_path / "zoo" / m), "parameters": {"weight": 1}} for m in "ab"]
    (tmp_path / "recipe.yaml").write_text(json.dumps({"merge_method": "linear", "models": models}))
    capsys.readouterr()
    assert main(["build", str(tmp_path / "recipe.yaml"), str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    file = tmp_path / "zoo" / "b" / "tokenizer.json"
    assert message.startswith(f"evomerge: error: {file}: expected a file that a separate process")
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_tokenizer_as_large_as_gemmas_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    large_inputs.gemma_like(tmp_path / "tokenizer.json")
    line = told_of("like Gemma's", tmp_path)
    assert line.endswith(": read")
    read = read_tokenizer(tmp_path)
    whole = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    added = {entry["content"]: entry["id"] for entry in whole["added_tokens"]}
    assert read is not None
    assert read.vocabulary == {**whole["model"]["vocab"], **added}
    with capsys.disabled():
        print(line)
