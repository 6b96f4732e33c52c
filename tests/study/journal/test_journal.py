"""Run with: pytest tests/study/journal (add `-m slow` for the timing of a long journal)."""

import errno
import io
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.core.errors import UserError
from evomerge.study.journal import journal as journal_module
from evomerge.study.journal.frames import frames
from evomerge.study.journal.journal import Journal, iterate, read

EVENTS = [  # of kinds that no version knows, so that anything may be in them
    {"event": "one", "format": 1, "name": "ärger ☃", "config": {"b": 1, "a": [0.1, None, True]}},
    {"event": "two", "trials": [{"trial": 0, "point": [0.30000000000000004, 1e-300]}]},
    {"event": "three", "trial": 0, "message": 'text that looks like 00000000 2 {"event":\n'},
    {"event": "four", "generation": 0, "trials": [0], "fitness": [-1.5]},
]


def write(path, events=EVENTS):
    with Journal.open(path, create=True) as journal:
        for event in events:
            journal.append(event)
    return path.read_bytes()


def study_events(path):
    return [event for event in read(path) if event["event"] not in {"journal", "opened"}]


def run_child(body, *arguments, **options):
    """Start `body` in a process of its own; it may import Journal only if torch stays out."""
    code = "from evomerge.study.journal.journal import Journal, read\nimport os, sys\n"
    command = [sys.executable, "-c", code + textwrap.dedent(body), *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_events_are_read_back_as_they_were_appended(tmp_path):
    path = tmp_path / "journal.log"
    write(path)
    assert study_events(path) == EVENTS
    assert list(iterate(path)) == read(path)
    assert read(path)[0] == {"event": "journal", "format": 1}
    replayed = []
    before = read(path)
    with Journal.open(path, create=False, replay=replayed.append) as journal:
        assert replayed == before
        assert journal.torn_bytes == 0
        token = journal.token
    opened = [event for event in read(path) if event["event"] == "opened"]
    assert [event["token"] for event in opened][-1] == token
    assert len({event["token"] for event in opened}) == 2
    assert opened[-1]["pid"] == os.getpid()
    assert opened[-1]["host"] == socket.gethostname()


def test_a_frame_is_crc_length_and_ascii_json_on_one_line(tmp_path):
    path = tmp_path / "journal.log"
    write(path, [{"n": "☃", "event": "x"}])
    payload = b'{"event":"x","n":"\\u2603"}'
    assert path.read_bytes().splitlines(keepends=True)[-1] == (
        b"%08x %d " % (zlib.crc32(payload), len(payload)) + payload + b"\n"
    )
    header = b'{"event":"journal","format":1}'
    assert path.read_bytes().startswith(b"%08x 30 %s\n" % (zlib.crc32(header), header))


numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(codec=None, categories=None))  # halves of surrogate pairs among them
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
)


@given(values)
def test_values_are_read_back_to_the_last_bit(value):
    events = [{"event": "journal", "format": 1}, {"event": "x", "value": value}]
    payloads = [json.dumps(event, separators=(",", ":")).encode() for event in events]
    lines = [b"%08x %d %s\n" % (zlib.crc32(p), len(p), p) for p in payloads]
    (_, _), (_, second) = frames(io.BytesIO(b"".join(lines)), Path("journal.log"))
    assert repr(second["value"]) == repr(value)


def test_the_file_is_private(tmp_path):
    path = tmp_path / "journal.log"
    write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "event", [{"event": "x", "score": float("nan")}, {"event": "x", "y": [float("inf")]}, {"y": 1}]
)
def test_nan_and_nameless_events_are_refused_and_leave_no_trace(tmp_path, event):
    path = tmp_path / "journal.log"
    with Journal.open(path, create=True) as journal:
        size = path.stat().st_size
        with pytest.raises(ValueError, match=r"JSON|name"):
            journal.append(event)
        assert path.stat().st_size == size
        journal.append({"event": "y"})
    assert study_events(path) == [{"event": "y"}]


def test_cut_at_every_byte_the_whole_frames_come_back_and_writing_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "sync_data", lambda _: None)
    whole = write(tmp_path / "whole.log")
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    events = read(tmp_path / "whole.log")
    path = tmp_path / "journal.log"
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        complete = sum(end <= cut for end in ends)
        assert read(path) == events[:complete]
        replayed = []
        with Journal.open(path, create=False, replay=replayed.append) as journal:
            assert replayed == events[:complete]
            assert journal.torn_bytes == cut - max([0, *(end for end in ends if end <= cut)])
            journal.append({"event": "next"})
        after = read(path)
        assert after[: max(complete, 1)] == events[: max(complete, 1)]
        assert [event["event"] for event in after[max(complete, 1) :]] == ["opened", "next"]


def test_every_flipped_byte_is_refused_in_the_middle_or_cut_off_at_the_tail(tmp_path):
    whole = write(tmp_path / "whole.log")
    events = read(tmp_path / "whole.log")
    last = whole[:-1].rindex(b"\n") + 1
    starts = [0] + [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    path = tmp_path / "journal.log"
    for at in range(len(whole)):
        for flip in (0x01, 0x20, whole[at] ^ ord("\n") or 0x02):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
            if at >= last:
                assert read(path) == events[:-1]
                continue
            offset = max(start for start in starts if start <= at)
            with pytest.raises(
                UserError, match=f"damaged at byte {offset} .*evomerge repair .* --to {offset}`"
            ):
                read(path)


def test_a_damaged_journal_is_not_opened_nor_changed(tmp_path):
    path = tmp_path / "journal.log"
    whole = write(path)
    broken = whole.replace(b"two", b"twi")
    path.write_bytes(broken)
    with pytest.raises(UserError, match="is damaged at byte"):
        Journal.open(path, create=True)
    assert path.read_bytes() == broken
    assert not path.with_suffix(".lock").exists()


@pytest.mark.parametrize("content", [b"a diary\n", b"\0" * 10, b"{}", b'{"event":"journal"}\n'])
def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "journal.log"
    path.write_bytes(content)
    for use in (read, lambda path: Journal.open(path, create=True)):
        with pytest.raises(UserError, match="is not an evomerge journal"):
            use(path)
    assert path.read_bytes() == content


def test_zeros_that_a_power_cut_left_at_the_end_are_a_torn_tail(tmp_path):
    path = tmp_path / "journal.log"
    whole = write(path)
    path.write_bytes(whole + b"\0" * 4096)
    with Journal.open(path, create=False) as journal:
        assert journal.torn_bytes == 4096
    assert study_events(path) == EVENTS


def test_a_newer_format_asks_for_an_upgrade(tmp_path):
    path = tmp_path / "journal.log"
    payload = json.dumps({"event": "journal", "format": 2}).encode()
    path.write_bytes(b"%08x %d %s\n" % (zlib.crc32(payload), len(payload), payload))
    for use in (read, lambda path: Journal.open(path, create=False)):
        with pytest.raises(UserError, match=r"format 2, but .* up to 1: upgrade"):
            use(path)


def test_a_missing_journal_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no\.log.*run folder"):
        read(tmp_path / "no.log")
    with pytest.raises(UserError, match=r"no\.log.*run folder"):
        Journal.open(tmp_path / "no.log", create=False)
    with pytest.raises(UserError, match="there is no folder"):
        Journal.open(tmp_path / "nowhere" / "no.log", create=True)
    with pytest.raises(UserError, match="directory"):
        Journal.open(tmp_path, create=False)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_after_a_failed_sync_the_journal_is_closed_and_ends_with_a_whole_event(
    tmp_path, monkeypatch, code
):
    path = tmp_path / "journal.log"
    journal = Journal.open(path, create=True)
    journal.append({"event": "x"})

    def fail(_fd):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(journal_module, "sync_data", fail)
    message = "disk full" if code == errno.ENOSPC else os.strerror(code)
    with pytest.raises(UserError, match=f"{message} while writing .* same command again"):
        journal.append({"event": "y"})
    monkeypatch.undo()
    with pytest.raises(ValueError, match="closed"):
        journal.append({"event": "z"})
    assert study_events(path) == [{"event": "x"}]
    Journal.open(path, create=False).close()


def test_an_interrupt_inside_append_leaves_the_journal_usable(tmp_path, monkeypatch):
    path = tmp_path / "journal.log"
    with Journal.open(path, create=True) as journal:

        def interrupt(_fd):
            raise KeyboardInterrupt

        monkeypatch.setattr(journal_module, "sync_data", interrupt)
        with pytest.raises(KeyboardInterrupt):
            journal.append({"event": "x"})
        monkeypatch.undo()
        journal.append({"event": "y"})
    assert study_events(path) == [{"event": "y"}]


def test_a_short_write_is_a_full_disk_and_what_came_before_stays(tmp_path):
    path = tmp_path / "journal.log"
    write(path, [{"event": "x"}])
    limit = path.stat().st_size + 1000  # room for some more events, and not for a whole number
    child = run_child(
        """
        from evomerge.core.errors import UserError
        count = 0
        try:
            with Journal.open(sys.argv[1], create=False) as journal:
                while True:
                    journal.append({"event": "y", "n": count, "text": "." * 70})
                    count += 1
        except UserError as error:
            print(count, error)
        """,
        path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    out, error = child.communicate(timeout=30)
    assert child.returncode == 0, error
    count, message = out.split(" ", 1)
    assert int(count) >= 3
    assert message.startswith("disk full while writing")
    assert path.read_bytes().endswith(b"\n")
    assert [event.get("n") for event in study_events(path)] == [None, *range(int(count))]
    with Journal.open(path, create=False) as journal:  # space again
        assert journal.torn_bytes == 0
        journal.append({"event": "z"})


@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_lose_nothing_that_was_acknowledged(tmp_path, kills):
    path = tmp_path / "journal.log"
    for kill in range(kills):
        child = run_child(
            """
            events = []
            with Journal.open(sys.argv[1], create=True, replay=events.append) as journal:
                n = sum(event["event"] == "x" for event in events)
                while True:
                    journal.append({"event": "x", "n": n, "rows": list(range(200))})
                    print(n, flush=True)
                    n += 1
            """,
            path,
        )
        assert child.stdout is not None
        first = child.stdout.readline()
        assert first, child.communicate()
        time.sleep(0.04 * kill / kills)
        child.send_signal(signal.SIGKILL)
        lines = (first + child.stdout.read()).split("\n")  # communicate() drops what is buffered
        child.communicate(timeout=30)
        acknowledged = int([line for line in lines[:-1] if line][-1])
        numbers = [event["n"] for event in read(path) if event["event"] == "x"]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) - 1 in {acknowledged, acknowledged + 1}
    replayed = []
    Journal.open(path, create=False, replay=replayed.append).close()
    assert [event["n"] for event in replayed if event["event"] == "x"] == numbers


def test_reading_and_writing_a_journal_imports_no_torch():
    child = run_child(
        """
        import evomerge.study.journal.record
        from evomerge.study.statistics import outcome, pools, race, verdict
        print(sorted({"torch", "transformers", "lm_eval", "ray"} & set(sys.modules)))
        """
    )
    out, error = child.communicate(timeout=60)
    assert out.strip() == "[]", error
