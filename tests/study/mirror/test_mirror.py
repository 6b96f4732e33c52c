"""A run folder's copy: what it holds, who may write it, what a lost machine loses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.core.errors import UserError
from evomerge.study.journal.journal import JOURNAL, Journal, read
from evomerge.study.mirror.files_copy import FilesCopy, restore_files
from evomerge.study.mirror.journal_copy import JournalCopy, read_copy
from evomerge.study.mirror.mirror import Mirror
from evomerge.study.mirror.remote import Remote
from tests.study.small_study import events, substance

SOON = 20.0  # seconds that a busy machine may take for what takes .05


def write(directory: Path, count: int, text: str = "x") -> None:
    """Append `count` warnings to a run's journal."""
    directory.mkdir(exist_ok=True)
    with Journal.open(directory / JOURNAL, create=True) as journal:
        for number in range(count):
            journal.append({"event": "warning", "kind": "test", "message": f"{text} {number}"})


def texts(directory: Path) -> list[str]:
    return [event["message"] for event in read(directory / JOURNAL) if event["event"] == "warning"]


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON
    while not holds():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return (tmp_path / "store").as_uri()


def test_a_run_goes_on_elsewhere_with_every_event(tmp_path: Path, url: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    with Mirror(here, url):
        write(here, 3)
    lines: list[str] = []
    with Mirror(there, url, say=lines.append):
        assert (there / JOURNAL).read_bytes() == (here / JOURNAL).read_bytes()
        write(there, 2, "more")
    assert lines == [f"mirror: 5 events of this run came from {url}"]  # with its header and opening
    with Mirror(tmp_path / "third", url):
        assert texts(tmp_path / "third") == ["x 0", "x 1", "x 2", "more 0", "more 1"]


def test_events_are_copied_while_the_study_runs(tmp_path: Path, url: str) -> None:
    here = tmp_path / "here"
    write(here, 0)
    with Mirror(here, url, interval=0.01), Journal.open(here / JOURNAL, create=False) as journal:
        for number in range(3):
            journal.append({"event": "warning", "kind": "test", "message": str(number)})
            now = (here / JOURNAL).read_bytes()
            wait_until(lambda now=now: copy_of(url) == now)


def copy_of(url: str) -> bytes:
    remote = Remote(url)
    [term] = [name for name in remote.names() if name.startswith("term-")]
    return read_copy(remote, f"{term}/journal")


def test_a_copy_is_whole_after_every_step_and_has_few_pieces(tmp_path: Path, url: str) -> None:
    run, remote = tmp_path / "run", Remote(url)
    write(run, 1)
    copy = JournalCopy(remote, "journal", run / JOURNAL)
    for size in (10, 200_000, 100, 300_000, 50_000, 50_000, 700_000, 5):
        write(run, 1, "y" * size)
        assert copy.waiting() == (run / JOURNAL).stat().st_size - copy.end > 0
        copy.update()
        assert copy.waiting() == 0
        assert read_copy(remote, "journal") == (run / JOURNAL).read_bytes()
    assert len(remote.names("journal")) <= 1 + (run / JOURNAL).stat().st_size // (256 << 10)


def test_half_an_event_is_not_copied(tmp_path: Path, url: str) -> None:
    run, remote = tmp_path / "run", Remote(url)
    write(run, 2)
    whole = (run / JOURNAL).read_bytes()
    copy = JournalCopy(remote, "journal", run / JOURNAL)
    for extra in (b"0", b"0123abcd 20 {", b"9" * 200_000):
        (run / JOURNAL).write_bytes(whole + extra)
        copy.update()
        assert read_copy(remote, "journal") == whole
        assert copy.waiting() == 0


def test_pieces_left_by_a_death_between_two_steps_are_passed_over(tmp_path: Path, url: str) -> None:
    run, remote = tmp_path / "run", Remote(url)
    write(run, 1)
    copy = JournalCopy(remote, "journal", run / JOURNAL)
    copy.update()
    [first] = remote.names("journal")
    content = remote.read(f"journal/{first}")
    write(run, 1, "z" * 300_000)
    copy.update()
    remote.write(f"journal/{first}", content)  # as if it had not been removed
    assert read_copy(remote, "journal") == (run / JOURNAL).read_bytes()


def test_a_copy_with_a_gap_ends_before_it(tmp_path: Path, url: str) -> None:
    run, remote = tmp_path / "run", Remote(url)
    write(run, 1)
    copy = JournalCopy(remote, "journal", run / JOURNAL)
    for _ in range(3):
        write(run, 1, "z" * 300_000)
        copy.update()
    first, second, third = remote.names("journal")
    remote.remove(f"journal/{second}")
    assert read_copy(remote, "journal") == remote.read(f"journal/{first}")
    assert third


def test_the_machine_that_was_taken_for_lost_stops_and_overwrites_nothing(
    tmp_path: Path, url: str
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    write(here, 1)
    first = Mirror(here, url, interval=0.01).__enter__()
    with Mirror(there, url):
        write(there, 1, "there")
        write(here, 1, "here")
        with pytest.raises(UserError, match=r"process \d+ on '.*' has taken this run over"):
            wait_until(lambda: first(None, None) is not None)
    with pytest.raises(UserError, match="has taken this run over"):
        first.__exit__(None, None, None)
    assert copy_of(url) == (there / JOURNAL).read_bytes()
    with pytest.raises(UserError, match="hold different runs from byte"):
        Mirror(here, url).__enter__()


def test_of_two_that_open_the_same_term_one_stops(tmp_path: Path, url: str) -> None:
    here = tmp_path / "here"
    write(here, 1)
    mirror = Mirror(here, url).__enter__()
    rival = "term-000001-" + "0" * 16
    Remote(url).write(f"{rival}/writer.json", json.dumps({"host": "b", "pid": 7}).encode())
    write(here, 1)
    mirror._copy()
    with pytest.raises(UserError, match="process 7 on 'b' has taken this run over"):
        mirror.__exit__(None, None, None)
    assert Remote(url).names(f"{rival}/journal") == []


def test_a_folder_ahead_of_its_copy_or_behind_it_is_the_same_run(tmp_path: Path, url: str) -> None:
    here = tmp_path / "here"
    with Mirror(here, url):
        write(here, 2)
    earlier = (here / JOURNAL).read_bytes()
    write(here, 2, "unmirrored")
    with Mirror(here, url):
        assert copy_of(url) == (here / JOURNAL).read_bytes() != earlier
    (here / JOURNAL).write_bytes(earlier)
    with Mirror(here, url):
        assert texts(here) == ["x 0", "x 1", "unmirrored 0", "unmirrored 1"]


def test_a_journal_that_shrank_is_copied_anew(tmp_path: Path, url: str) -> None:
    here = tmp_path / "here"
    write(here, 5)
    with Mirror(here, url) as mirror:
        events = (here / JOURNAL).read_bytes().splitlines(keepends=True)
        (here / JOURNAL).write_bytes(b"".join(events[:-2]))
        mirror._copy()
        assert copy_of(url) == b"".join(events[:-2])


def test_a_run_that_another_process_writes_is_refused(tmp_path: Path, url: str) -> None:
    here = tmp_path / "here"
    with Mirror(here, url):
        write(here, 1)
    with (
        Journal.open(here / JOURNAL, create=False),
        pytest.raises(UserError, match="is in use by process"),
    ):
        Mirror(here, url).__enter__()
    assert [name[:11] for name in Remote(url).names() if name.startswith("term")] == ["term-000001"]


def test_a_store_out_of_reach_does_not_end_a_study(tmp_path: Path, url: str) -> None:
    here, store, away = tmp_path / "here", tmp_path / "store", tmp_path / "away"
    write(here, 1)
    lines: list[str] = []
    with Mirror(here, url, interval=0.01, say=lines.append):
        store.rename(away)
        store.write_text("a file where the folder was")
        write(here, 1, "meanwhile")
        wait_until(lambda: len(lines) == 1)
        assert "the study goes on, and it is tried again" in lines[0]
        store.unlink()
        away.rename(store)
        wait_until(lambda: len(lines) == 2)
    assert lines[1] == f"mirror: {url} is reached again"
    assert copy_of(url) == (here / JOURNAL).read_bytes()


def test_files_come_along_each_content_once(tmp_path: Path, url: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    with Mirror(here, url):
        write(here, 1)
        (here / "best" / "model").mkdir(parents=True)
        (here / "best" / "recipe.yaml").write_text("merge_method: linear\n")
        (here / "best" / "model" / "model.safetensors").write_bytes(b"0" * 1000)
        (here / "copy").write_bytes(b"0" * 1000)
        (here / ".verdict.json.partial-1").write_text("half")
    assert len(list((tmp_path / "store" / "content").iterdir())) == 2
    with Mirror(there, url):
        restored = {f.relative_to(there).as_posix() for f in there.rglob("*") if f.is_file()}
        assert restored == {"best/recipe.yaml", "best/model/model.safetensors", "copy", JOURNAL}
        (there / "copy").unlink()
        (there / "best" / "recipe.yaml").write_text("merge_method: ties\n")
    with Mirror(there, url):
        pass
    contents = {f.read_bytes() for f in (tmp_path / "store" / "content").iterdir()}
    assert contents == {b"0" * 1000, b"merge_method: ties\n"}  # and the old recipe's is gone


def test_a_damaged_content_is_left_out_by_name(tmp_path: Path, url: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    with Mirror(here, url):
        write(here, 1)
        (here / "verdict.json").write_text("{}")
        (here / "report.html").write_text("<p>")
    for content in (tmp_path / "store" / "content").iterdir():
        if content.read_text() == "{}":
            content.write_text("{1}")
    lines: list[str] = []
    with Mirror(there, url, say=lines.append):
        assert not (there / "verdict.json").exists()
        assert (there / "report.html").read_text() == "<p>"
    assert "mirror: the copy of verdict.json is damaged: left out" in lines


@pytest.mark.parametrize(
    "name", ["../out", "/tmp/out", "a/../../out", JOURNAL, "journal.lock", ".ssh/config", ""]
)
def test_a_list_reaches_no_file_outside_of_the_run(tmp_path: Path, url: str, name: str) -> None:
    run, source = tmp_path / "run", tmp_path / "source"
    run.mkdir(), source.mkdir()
    (source / "good").write_text("content")
    remote = Remote(url)
    FilesCopy(remote, "files", source).update()
    [listed] = remote.names("files")
    [digest] = json.loads(remote.read(f"files/{listed}")).values()
    remote.write("files/list-000000009", json.dumps({name: digest}).encode())
    lines: list[str] = []
    assert restore_files(remote, "files", run, lines.append) == 0
    assert "is no name of a file in a run folder" in lines[0]
    assert list(run.iterdir()) == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("runs/1", "expected a URL such as s3://bucket/folder or file:///folder, got 'runs/1'"),
        ("nope://x", "--mirror nope://x: Protocol not known"),
        ("file:///proc/none", "--mirror: cannot write file:///proc/none"),
    ],
)
def test_an_address_that_cannot_be_written_is_refused_at_once(
    tmp_path: Path, address: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Mirror(tmp_path / "run", address).__enter__()


def test_messages_hold_no_password(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        Mirror(tmp_path / "run", "nope://me:pass1234@host/x").__enter__()
    assert "pass1234" not in str(error.value)


def test_a_study_resumes_from_its_mirror(tmp_path: Path, url: str) -> None:
    import evomerge as em

    def study(directory: Path, mirror: Any) -> em.Study:
        space = em.SearchSpace.from_yaml("task_arithmetic_by_depth").bind("base", ["a", "b"])
        return em.create_study(
            space, em.LMEval(["t"]), directory, trials=8, optimizer="cmaes", listener=mirror
        )

    def score(trial: em.Trial) -> float:
        return sum(map(float, trial.params.values())) if trial.params else 0.5

    first, second, whole = tmp_path / "first", tmp_path / "second", tmp_path / "whole"
    expected = []
    with study(whole, None) as one:
        for _ in range(12):
            trial = one.ask()
            one.tell(trial, score(trial))
            expected.append(trial.params)
    asked = []
    for directory in (first, second):
        with Mirror(directory, url) as mirror, study(directory, mirror) as one:
            for _ in range(6):
                trial = one.ask()
                one.tell(trial, score(trial))
                asked.append(trial.params)
        shutil.rmtree(directory)
    assert asked == expected


@pytest.mark.slow
def test_a_run_whose_machine_is_killed_and_wiped_again_and_again_ends_with_the_same_verdict(
    finished: Path, small_study: Path, tmp_path: Path, url: str
) -> None:
    """Nothing is left of the run but its copy; the same command goes on from there."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "evomerge", "search", str(small_study), str(run)]
    command += ["--mirror", url]
    most = len(events(finished))
    with (tmp_path / "output").open("w") as output:
        for share in (0.2, 0.5, 0.8):
            driver = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
            end = time.monotonic() + 240
            while not (run / JOURNAL).exists() or len(events(run)) < share * most:
                assert driver.poll() is None, (tmp_path / "output").read_text()
                assert time.monotonic() < end
                time.sleep(0.05)
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()
            shutil.rmtree(run)
        done = subprocess.run(command, stdout=output, stderr=output, check=False)
    assert done.returncode == 0, (tmp_path / "output").read_text()
    assert substance(run) == substance(finished)
    verdicts = [json.loads((one / "verdict.json").read_text()) for one in (run, finished)]
    assert [v.pop("reproduce") is not None for v in verdicts] == [True, True]  # names the folder
    assert verdicts[0] == verdicts[1]
    assert len(events(run, "opened")) > 2, "what was done before the kills is in it"
