"""Mirrors a run folder to a URL while its study runs, and restores it on another machine.

Each writer has a term: a folder ``term-000003-<token>``, which it opens before it copies anything.
The writer of the highest term owns the run, and of two that open the same term the one with the
smaller token: so a machine that everybody took for lost, and that comes back, finds that it is
not the owner any more and stops, and has overwritten nothing.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from evomerge.core.atomic import user_errors
from evomerge.core.errors import UserError
from evomerge.study.journal.journal import JOURNAL, sync_data
from evomerge.study.journal.lock import take_lock
from evomerge.study.mirror.files_copy import FilesCopy, restore_files
from evomerge.study.mirror.journal_copy import JournalCopy, read_copy
from evomerge.study.mirror.remote import Remote, RemoteError

_TERM = re.compile(r"term-(\d{6})-([0-9a-f]{16})")
_GRACE = 15.0  # seconds that an interrupted study waits for the last events to be copied
_PAUSES = (1.0, 4.0, 10.0)  # seconds between tries at the end
_SMALL = 16 << 20  # bytes of a file that is copied while the study runs
_FILES_EVERY = 60.0  # seconds


class Mirror:
    """Keeps a run folder's copy at a URL up to date; ``with`` begins and ends it.

    Entering restores the run if the folder has none or is behind, and takes the run over from
    whoever mirrored it before. While it is open, a thread copies new events every `interval`
    seconds. Leaving copies the rest, the model among it; after an error or an interrupt the events
    alone, for at most 15 seconds. It is also a listener: give it to `create_study`, so that a study
    that another machine has taken over stops.

    >>> import tempfile
    >>> import evomerge as em
    >>> home, away = tempfile.mkdtemp(), "memory://doctest"
    >>> space = em.SearchSpace.from_yaml("task_arithmetic_by_depth").bind("base", ["a", "b"])
    >>> with em.Mirror(home, away) as mirror, em.create_study(
    ...     space, em.LMEval(["gsm8k"]), home, listener=mirror
    ... ) as study:
    ...     study.tell(study.ask(), {"gsm8k": 0.5})
    >>> elsewhere = tempfile.mkdtemp()
    >>> with em.Mirror(elsewhere, away):
    ...     em.load_study(elsewhere).trials[0]
    Trial(0, 'a', scored, fitness=None)

    Args:
        directory: The run folder.
        url: ``s3://bucket/folder``, ``gs://…``, ``file:///…``: whatever fsspec opens, one run a
            folder.
        interval: Seconds between two looks at the journal: how much a lost machine can lose.
        say: Called with each line for the user.
    """

    def __init__(
        self,
        directory: str | Path,
        url: str,
        interval: float = 2.0,
        say: Callable[[str], object] = lambda _line: None,
    ) -> None:
        self.directory = Path(directory)
        self._remote = Remote(url)
        self._say = say
        self._interval = interval
        self._stop = threading.Event()
        self._busy = threading.Lock()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="evomerge-mirror")
        self._taken_over = ""
        self._unreachable = False
        self._files_at = -_FILES_EVERY

    def __enter__(self) -> Self:
        """Restore what the folder lacks, and begin.

        Raises:
            UserError: The store cannot be reached or refuses, or the two runs have parted.
        """
        try:
            owner = self._owner()
            if owner is not None:
                self._restore(owner)
            self._begin(owner)
        except RemoteError as error:
            raise UserError(
                f"--mirror: {error}; check the address and the credentials in the environment"
            ) from None
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._taken_over:
            if kind is None:
                raise UserError(self._taken_over)
            return
        if kind is None:
            self._copy(last=True)
            for pause in _PAUSES:
                if not self._unreachable:
                    break
                time.sleep(pause)
                self._copy(last=True)
        else:  # a thread, since a store that is gone may let us wait for ever
            last = threading.Thread(target=self._copy, daemon=True)
            last.start()
            last.join(_GRACE)
        waiting = self._journal.waiting()
        if waiting or self._unreachable:
            what = f"the journal's last {waiting:,} bytes are" if waiting else "some files are"
            self._say(f"mirror: {what} not in {self._remote.url}: the same command copies them")

    def __call__(self, _event: object, _record: object) -> None:
        """Stop the study, as its listener, once another machine has taken the run over.

        Raises:
            UserError: It has.
        """
        if self._taken_over:
            raise UserError(self._taken_over)

    def _owner(self) -> str | None:
        """Return the folder of the present owner's term."""
        terms = [m for name in self._remote.names() if (m := _TERM.fullmatch(name))]
        owner = max(terms, key=lambda m: (int(m[1]), -int(m[2], 16)), default=None)
        return None if owner is None else owner[0]

    def _restore(self, term: str) -> None:
        """Bring the folder up to the copy."""
        content = read_copy(self._remote, f"{term}/journal")
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.directory / JOURNAL
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            take_lock(fd, path, path.with_suffix(".lock"))
            local = path.read_bytes()
            if not content.startswith(local[: len(content)]):
                at = next(i for i, (a, b) in enumerate(zip(local, content, strict=False)) if a != b)
                raise UserError(
                    f"--mirror: {path} and {self._remote.url} hold different runs from byte {at:,} "
                    f"on: to take the mirror's, move {self.directory} away; to keep this one, give "
                    "another --mirror"
                )
            if len(local) < len(content):
                with user_errors(path):
                    missing = len(content) - len(local)
                    if os.write(fd, content[len(local) :]) < missing:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    sync_data(fd)
                events = content.count(b"\n", len(local))
                self._say(f"mirror: {events:,} events of this run came from {self._remote.url}")
        finally:
            path.with_suffix(".lock").unlink(missing_ok=True)
            os.close(fd)
        restored = restore_files(self._remote, f"{term}/files", self.directory, self._say)
        if restored:
            self._say(f"mirror: {restored} files came from {self._remote.url}")

    def _begin(self, before: str | None) -> None:
        """Open the term after `before`, copy what is there, and remove what others left."""
        number = 1 if before is None else 1 + int(before.split("-")[1])
        self._term = f"term-{number:06d}-{secrets.token_hex(8)}"
        writer = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
        self._remote.write(f"{self._term}/writer.json", json.dumps(writer).encode())
        journal = self.directory / JOURNAL
        self._journal = JournalCopy(self._remote, f"{self._term}/journal", journal)
        self._files = FilesCopy(self._remote, f"{self._term}/files", self.directory)
        if journal.exists():
            self._journal.update()
            self._files.update()
        self._check_owner()
        if self._taken_over:
            raise UserError(self._taken_over)
        for name in self._remote.names():  # all that they hold is in this one
            match = _TERM.fullmatch(name)
            if match and int(match[1]) < number:
                self._remote.remove(name)
        self._files.sweep()

    def _check_owner(self) -> None:
        owner = self._owner()
        if owner in (self._term, None):
            return
        try:
            writer = json.loads(self._remote.read(f"{owner}/writer.json"))
            who = f"process {int(writer['pid'])} on {str(writer['host'])!r}"
        except (RemoteError, ValueError, TypeError, KeyError):
            who = "another process"
        self._taken_over = (
            f"{self._remote.url}: {who} has taken this run over; it goes on there, and this one "
            "ends here"
        )

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            self._copy()

    def _copy(self, last: bool = False) -> None:
        """Copy what is new; what fails is tried again the next time."""
        with self._busy:
            if self._taken_over:
                return
            try:
                waiting = self._journal.waiting()
                if waiting < 0:  # repaired, or an event that was never acknowledged was taken back
                    self._begin(self._term)
                if waiting or last:
                    self._check_owner()
                    if self._taken_over:
                        return
                    self._journal.update()
                now = time.monotonic()
                if last or now - self._files_at >= _FILES_EVERY:
                    self._files.update(None if last else _SMALL)
                    self._files_at = now
                if self._unreachable:
                    self._say(f"mirror: {self._remote.url} is reached again")
                self._unreachable = False
            except OSError as error:
                if not self._unreachable:
                    self._say(f"mirror: {error}; the study goes on, and it is tried again")
                self._unreachable = True
