"""What a terminal gets: lines cut between words at its width, colours where they say something."""

from __future__ import annotations

import contextlib
import io
import re

import pytest
from rich.text import Text

from evomerge.cli import main
from evomerge.cli.display.lines import VERDICT, show, working, wrapped
from tests.study.small_study import finished_study


class Terminal(io.StringIO):
    """A stream that a person reads."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    return stream


def run(terminal: Terminal, *words: object) -> int:
    """A command that writes there; its exit code."""
    with contextlib.redirect_stdout(terminal), contextlib.redirect_stderr(terminal):
        try:
            return main([str(word) for word in words])
        except SystemExit as left:
            return int(left.code or 0)


def plain(terminal: Terminal) -> list[str]:
    return Text.from_ansi(terminal.getvalue()).plain.splitlines()


@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.parametrize(
    "command",
    [["--help"], [], ["spaces"], ["methods", "ties"], ["optimizers"], ["searhc"], ["status", "no"]],
    ids=lambda words: " ".join(words) or "nothing",
)
def test_no_command_writes_beyond_the_edge(
    terminal: Terminal, command: list[str], columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    run(terminal, *command)
    lines = [line for line in plain(terminal) if not line.startswith("usage: ")]
    assert lines
    for line in lines:
        assert len(line) <= columns or " " not in line.strip(), line


def test_the_state_of_a_run_and_its_verdict_fit(
    terminal: Terminal, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = finished_study(tmp_path_factory.getbasetemp() / "real-study")
    monkeypatch.setenv("COLUMNS", "40")
    for command in ("status", "watch", "explain"):
        assert run(terminal, command, directory) == 0
    assert not (directory / "explain.json").exists()
    for line in plain(terminal):
        assert len(line) <= 40, line
    assert any(line.startswith("         ") for line in plain(terminal))  # below a second column


def test_errors_warnings_and_verdicts_have_colours(terminal: Terminal) -> None:
    assert run(terminal, "status", "nowhere") == 2
    assert "\x1b[1;31mevomerge: error:\x1b[0m nowhere: expected a run folder" in terminal.getvalue()
    show("warning: one\nnothing\nfailed: two", stream=terminal)
    show("Improvement shown", VERDICT[True], terminal)
    written = terminal.getvalue()
    for part in ("\x1b[1;33mwarning:\x1b[0m one", "\x1b[1;31mfailed\x1b[0m: two"):
        assert part in written
    assert "\nnothing\n" in written
    assert "\x1b[1;32mImprovement shown\x1b[0m" in written


def test_no_color_turns_colours_off_and_a_pipe_has_none(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert run(terminal, "status", "nowhere") == 2
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", terminal.getvalue())
    pipe = io.StringIO()
    show("warning: " + "long " * 60, stream=pipe)
    assert pipe.getvalue() == "warning: " + "long " * 60 + "\n"


def test_intervals_and_percents_stay_on_one_line() -> None:
    line = "verdict  by [+0.104, +0.153] and by +0.643 [+0.611, +0.673]; 95 % intervals, 2 min"
    for width in range(40, 90):
        text = "\n".join(wrapped(line, width))
        for part in ("[+0.104, +0.153]", "[+0.611, +0.673]", "95 %", "2 min"):
            assert part in text


def test_what_takes_long_says_so_on_a_terminal(terminal: Terminal) -> None:
    with contextlib.redirect_stderr(terminal), working("explain: importances") as say:
        say("explain: 3 of 9 recipes scored")
    assert "3 of 9 recipes scored" in terminal.getvalue()


def test_a_line_of_words_alone_has_no_hanging_indent() -> None:
    assert wrapped("one two three four", 9) == ["one two", "three", "four"]
    assert wrapped("  one two three", 10)[1].startswith("    ")
