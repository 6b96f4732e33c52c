"""Fuzzing with coverage: bytes that atheris grows are read as weights, as YAML and as a journal.

    python3.11 -m venv FUZZ && FUZZ/bin/pip install atheris
    PYTHONPATH=.:SITE_PACKAGES_OF_EVOMERGE FUZZ/bin/python experiments/fuzz/run.py yaml 600

What is no `UserError`, takes longer than five seconds or more than 2 GB ends the run, and the input
is kept in the folder. The last lines say how many inputs were tried.
"""

from __future__ import annotations

import contextlib
import json
import struct
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["evomerge", "yaml", "json"]):
    from evomerge.checkpoint.files.header import read_header
    from evomerge.core import yaml_file
    from evomerge.core.errors import UserError
    from evomerge.study.journal.journal import Journal, iterate
    from evomerge.study.journal.repair import repair
    from tests.faults.bad_files import HEADERS, WEIGHTS, frame
    from tests.faults.bad_inputs import BYTES, TEXTS
    from tests.study.small_study import stub_document

SPACE = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
FOLDER = Path(tempfile.mkdtemp(dir=SPACE))
LARGEST = 100_000  # bytes of a seed; larger ones are what the limits are for


def header(data: bytes) -> None:
    """Read a safetensors file: once as it is, once with the length that its text has."""
    file = FOLDER / "model.safetensors"
    for content in (data, struct.pack("<Q", len(data)) + data):
        file.write_bytes(content)
        with contextlib.suppress(UserError):
            read_header(file)


def text(data: bytes) -> None:
    """Read YAML from a file."""
    file = FOLDER / "input.yaml"
    file.write_bytes(data)
    with contextlib.suppress(UserError):
        yaml_file.read(file)
    with contextlib.suppress(UserError):
        yaml_file.read_all(file)


def journal(data: bytes) -> None:
    """Read, repair and open a journal; what opens once opens again, and holds the same."""
    file = FOLDER / "journal.log"
    file.write_bytes(data)
    with contextlib.suppress(UserError):
        list(iterate(file))
    with contextlib.suppress(UserError):
        repair(FOLDER)
    with contextlib.suppress(UserError):
        Journal.open(file, create=False).close()
        before = list(iterate(file))
        Journal.open(file, create=False).close()
        assert list(iterate(file))[:-1] == before


def seeds(target: str) -> list[bytes]:
    """List the inputs to start from: whole ones, and the bad ones of the tests."""
    if target == "header":
        made = [json.dumps(h).encode() for h in HEADERS.values()]
        return made + [struct.pack("<Q", len(h)) + h + bytes(8) for h in made] + [*WEIGHTS.values()]
    if target == "yaml":
        whole = yaml_file.write(stub_document()).encode()
        return [whole, *(t.encode() for t in TEXTS.values()), *BYTES.values()]
    events = [
        {"event": "journal", "format": 1},
        {"event": "opened"},
        {"event": "x", "y": [1, None]},
    ]
    frames = [frame(event) for event in events]
    return [b"".join(frames[:n]) for n in range(4)] + [b"".join(frames)[:-k] for k in (1, 9, 30)]


def main() -> None:
    target, seconds = sys.argv[1], int(sys.argv[2])
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(s for s in seeds(target) if len(s) <= LARGEST):
        (corpus / str(number)).write_bytes(seed)
    read = {"header": header, "yaml": text, "journal": journal}[target]
    limits = [f"-max_total_time={seconds}", "-timeout=5", "-rss_limit_mb=2048", "-max_len=4096"]
    atheris.Setup([sys.argv[0], *limits, "-print_final_stats=1", str(corpus)], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
