"""Large and hostile files: what the process and the child that reads first take together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults import large_inputs

ROOT = Path(__file__).parents[2]
MEGABYTES = 200
SECONDS = 6.0

# A process without torch. Linux counts what a process held before it became another as the other's,
# so the one that reads is a child of one that holds little.
READER = """
import json, os, resource, sys
reader = os.fork()
if reader:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]))
for name, folder in (("evomerge", "evomerge"), ("evomerge.checkpoint", "evomerge/checkpoint")):
    sys.modules[name] = type(sys)(name)
    sys.modules[name].__path__ = [sys.argv[1] + "/" + folder]
from pathlib import Path
from evomerge.checkpoint import inspection
from evomerge.checkpoint.folder import read_config
from evomerge.checkpoint.header import read_header
from evomerge.checkpoint.vocabulary import read_tokenizer
from evomerge.errors import UserError

def peaks():
    kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return [resource.getrusage(kind).ru_maxrss / 1024 for kind in kinds]

folder, began, told = Path(sys.argv[2]), peaks()[0], None
kept = []
try:
    inspection.inspect([folder])
    kept.append(read_config(folder))
    if (folder / "model.safetensors").is_file():
        kept.append(read_header(folder / "model.safetensors"))
    if inspection.tokens_of(folder):
        kept.append(read_tokenizer(folder))
except UserError as error:
    told = str(error)
used = [resource.getrusage(kind) for kind in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
seconds = [u.ru_utime + u.ru_stime for u in used]
print(json.dumps([told, peaks()[0] - began, peaks()[1], *seconds]))
"""


def spent(folder: Path) -> tuple[str | None, float, float, float, float]:
    """What is told of a folder; megabytes of the process and of the child; seconds of each."""
    command = [sys.executable, "-S", "-E", "-c", READER, str(ROOT), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not done.stderr, done.stderr
    answer: Any = json.loads(done.stdout)
    return tuple(answer)


@pytest.mark.slow
def test_hostile_files_take_little_memory_in_the_process_and_its_child_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, folder in large_inputs.folders(tmp_path):
        told, own, child, seconds, child_seconds = spent(folder)
        with capsys.disabled():
            print(
                f"\n{name}: process {own:.0f} MB {seconds:.1f} s, child {child:.0f} MB "
                f"{child_seconds:.1f} s: {'read' if told is None else told[-150:]}"
            )


@pytest.mark.slow
def test_a_tokenizer_as_large_as_gemmas_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    large_inputs.gemma_like(tmp_path / "tokenizer.json")
    told, own, child, seconds, child_seconds = spent(tmp_path)
    assert told is None
    with capsys.disabled():
        print(f"\n{own:.0f} MB {seconds:.1f} s, child {child:.0f} MB {child_seconds:.1f} s")
