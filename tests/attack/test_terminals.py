"""Output never fails for want of letters, and no name gives orders to a terminal."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evomerge.cli.display.panel import panel
from evomerge.core.terminal import print_anywhere, printable
from evomerge.report import Pace
from evomerge.study.journal.codec import parse_all
from evomerge.study.journal.record import Record
from tests.report import report_bench as bench

ROOT = Path(__file__).parents[2]
ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\x08\u202e"


def shown(encoding: str, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "evomerge", *map(str, arguments)],
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=120,
        check=False,
    )


def renamed_run(folder: Path, name: str) -> Path:
    """A finished run whose anchors, trials and messages have a name."""
    events = bench.events()
    for event in events:
        for trial in event.get("trials", []) if event["event"] == "asked" else []:
            trial["name"] = f"{trial['name']} {name}"
        if event["event"] in ("failed", "warning"):
            event["message"] += name
        if event["event"] == "verdict":
            event["sentence"] += name
            event["winner"]["name"] += name
    return bench.write(folder, events)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", "utf-8"])
@pytest.mark.parametrize("letters", ["λ=0.5 → Σ ≥ ½", "日本語 \udcff", "naïve – “x”"])
def test_a_stream_of_any_encoding_takes_any_text(encoding: str, letters: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    print_anywhere(stream)
    print(letters, file=stream)
    stream.flush()
    assert raw.getvalue().decode(encoding).strip()


def test_what_an_encoding_lacks_appears_in_plain_letters() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    print_anywhere(stream)
    print("task arithmetic λ=0.5, −1 → 2, é", file=stream, flush=True)
    assert raw.getvalue() == b"task arithmetic lambda=0.5, -1 -> 2, e\n"


@pytest.mark.parametrize(
    ("encoding", "expected"), [("latin-1", b"lambda=0.5"), ("utf-8", "λ=0.5".encode())]
)
def test_status_and_watch_on_a_terminal_without_the_letter(
    tmp_path: Path, encoding: str, expected: bytes
) -> None:
    run = renamed_run(tmp_path / "run", "λ=0.5")
    status = shown(encoding, "status", run)
    assert (status.returncode, status.stderr) == (0, b"")
    assert expected in status.stdout
    watch = shown(encoding, "watch", run)
    assert watch.returncode == 0, watch.stderr
    assert expected in watch.stdout


def test_json_is_the_same_whatever_the_terminals_letters(tmp_path: Path) -> None:
    run = renamed_run(tmp_path / "run", "λ=0.5")
    said = [shown(encoding, "status", run, "--json").stdout for encoding in ("ascii", "utf-8")]
    assert said[0] == said[1]
    assert "λ=0.5" in json.loads(said[0])["verdict"]["sentence"]


def test_names_in_a_journal_give_no_orders_to_a_terminal(evomerge: Any, tmp_path: Path) -> None:
    run = renamed_run(tmp_path / "run", ESCAPES)
    for command in ("status", "watch", "explain"):
        said = evomerge(command, run)
        assert said.code == 0
        assert "?[2J" in said.out
        assert not {*ESCAPES} & {*said.out} - {*"[2J]0;owned31m"}
    record = Record.from_events(parse_all(bench.events()))
    renamed = Record.read(run)
    assert record.verdict is not None
    stream = io.StringIO()
    Console(file=stream, force_terminal=False).print(panel(renamed, Pace(0.0), 10, None))
    assert "\x1b" not in stream.getvalue()
    assert "\x9b" not in stream.getvalue()


def test_an_error_gives_no_orders_to_a_terminal(evomerge: Any, tmp_path: Path) -> None:
    said = evomerge("status", tmp_path / f"run{ESCAPES}")
    assert said.code == 2
    assert "?[2J" in said.err
    assert "\x1b" not in said.err


def test_printable_leaves_text_alone() -> None:
    text = "λ=0.5: naïve\tcafé – 日本語\nnext"
    assert printable(text) == text
