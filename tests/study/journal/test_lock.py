"""One writer at a time: the lock, and what a writer notices that is not alone."""

import errno
import json
import os
import socket
import subprocess
import sys
import time

import pytest

from evomerge.core.errors import UserError
from evomerge.study.journal.journal import Journal
from tests.study.journal.test_journal import run_child, study_events


def test_a_second_writer_is_told_who_holds_the_journal_and_readers_are_not_stopped(tmp_path):
    path = tmp_path / "journal.log"
    with Journal.open(path, create=True) as journal:
        journal.append({"event": "x"})
        with pytest.raises(UserError, match=rf"in use by process {os.getpid()} on .* since 20"):
            Journal.open(path, create=True)
        child = run_child("Journal.open(sys.argv[1], create=False)", path)
        _, error = child.communicate(timeout=30)
        assert child.returncode == 1
        assert f"in use by process {os.getpid()} on {socket.gethostname()} since" in error
        assert study_events(path) == [{"event": "x"}]
        journal.append({"event": "y"})
    assert not path.with_suffix(".lock").exists()
    Journal.open(path, create=False).close()
    with pytest.raises(ValueError, match="closed"):
        journal.append({"event": "z"})


def test_the_lock_that_a_killed_writer_left_to_its_child_is_waited_for(tmp_path):
    path = tmp_path / "journal.log"
    child = run_child(
        """
        import time
        journal = Journal.open(sys.argv[1], create=True)
        if os.fork() == 0:  # as a process that was to become a worker, and has not yet
            os.setsid()
            time.sleep(2)
            os._exit(0)
        print("ready", flush=True)
        time.sleep(60)
        """,
        path,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.kill()
    child.wait()
    began = time.monotonic()
    Journal.open(path, create=False).close()
    assert 0.2 < time.monotonic() - began < 9
    child.stdout.close()
    child.stderr.close()


def test_a_writer_that_someone_wrote_past_stops_instead_of_mixing_events(tmp_path):
    path = tmp_path / "journal.log"
    with Journal.open(path, create=True) as journal:
        with path.open("ab") as intruder:
            intruder.write(b"!")
        with pytest.raises(UserError, match="another process wrote to it"):
            journal.append({"event": "x"})
        with pytest.raises(ValueError, match="closed"):
            journal.append({"event": "x"})


def test_a_deleted_journal_is_noticed_at_the_next_event(tmp_path):
    path = tmp_path / "journal.log"
    with Journal.open(path, create=True) as journal:
        path.unlink()
        with pytest.raises(UserError, match="deleted or replaced"):
            journal.append({"event": "x"})


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP])
def test_without_file_locks_the_lock_file_decides_with_a_warning(tmp_path, monkeypatch, code):
    def no_flock(_fd, _operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", no_flock)
    path = tmp_path / "journal.log"
    lock = tmp_path / "journal.lock"
    with pytest.warns(RuntimeWarning, match="no file locks"):
        journal = Journal.open(path, create=True)
    with (
        pytest.warns(RuntimeWarning, match="no file locks"),
        pytest.raises(UserError, match=f"in use by process {os.getpid()} .*delete .*journal.lock"),
    ):
        Journal.open(path, create=True)
    journal.close()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    lock.write_text(json.dumps({"pid": gone.pid, "host": socket.gethostname(), "start": 1.0}))
    with pytest.warns(RuntimeWarning, match="no file locks"):
        Journal.open(path, create=True).close()
    lock.write_text(json.dumps({"pid": gone.pid, "host": "elsewhere", "start": 1.0}))
    with (
        pytest.warns(RuntimeWarning, match="no file locks"),
        pytest.raises(UserError, match="on elsewhere since"),
    ):
        Journal.open(path, create=True)
