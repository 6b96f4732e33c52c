"""A journal that is damaged in its middle is mended by hand, and nothing is thrown away."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.cli import main
from evomerge.core.errors import UserError
from evomerge.study.journal.journal import Journal, read
from evomerge.study.journal.repair import repair

NAMES = ["one", "two", "three", "four"]


def written(run: Path) -> bytes:
    with Journal.open(run / "journal.log", create=True) as journal:
        for name in NAMES:
            journal.append({"event": name, "text": "." * 50})
    return (run / "journal.log").read_bytes()


def damaged(run: Path) -> tuple[bytes, int]:
    """A journal whose third event of its own is damaged, and where that event begins."""
    whole = written(run)
    at = whole.index(b"three")
    broken = whole[:at] + b"thrEE" + whole[at + 5 :]
    (run / "journal.log").write_bytes(broken)
    return broken, whole.rindex(b"\n", 0, at) + 1


def test_damage_in_the_middle_names_the_command_that_mends_it_and_that_command_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, offset = damaged(tmp_path)
    journal = tmp_path / "journal.log"
    with pytest.raises(UserError, match=f"evomerge repair {tmp_path} --to {offset}`"):
        read(journal)
    assert main(["repair", str(tmp_path)]) == 2
    assert f"--to {offset}" in capsys.readouterr().err
    assert journal.read_bytes() == broken
    assert main(["repair", str(tmp_path), "--to", str(offset)]) == 0
    printed = capsys.readouterr().out
    assert "4 whole events" in printed
    assert f"{len(broken) - offset} bytes behind them" in printed
    assert [event["event"] for event in read(journal)] == ["journal", "opened", "one", "two"]
    assert (tmp_path / f"journal.log.from-{offset}").read_bytes() == broken[offset:]
    with Journal.open(journal, create=False) as again:
        again.append({"event": "next"})
    assert read(journal)[-1]["event"] == "next"
    assert not (tmp_path / "journal.lock").exists()


@pytest.mark.parametrize("shift", [-1, 1, 10_000, -10_000])
def test_an_offset_inside_an_event_or_behind_the_damage_is_refused_and_nothing_changes(
    tmp_path: Path, shift: int
) -> None:
    broken, offset = damaged(tmp_path)
    with pytest.raises(UserError, match=f"the last readable one at {offset}"):
        repair(tmp_path, offset + shift)
    assert (tmp_path / "journal.log").read_bytes() == broken
    assert len(list(tmp_path.iterdir())) == 1


def test_a_whole_journal_is_only_checked(tmp_path: Path) -> None:
    whole = written(tmp_path)
    done = repair(tmp_path)
    assert (done.events, done.kept_bytes, done.rest) == (6, len(whole), None)
    assert (tmp_path / "journal.log").read_bytes() == whole


def test_a_journal_that_is_in_use_is_not_repaired(tmp_path: Path) -> None:
    with (
        Journal.open(tmp_path / "journal.log", create=True),
        pytest.raises(UserError, match="in use by process"),
    ):
        repair(tmp_path, 47)


def test_a_folder_without_a_journal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot open journal .*journal\.log: No such file"):
        repair(tmp_path, 47)
