"""Posts to a URL how a command ended: once, to a chat, a phone or a program of the user's."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from evomerge.core.errors import UserError
from evomerge.core.redact import redact
from evomerge.study.journal.journal import JOURNAL
from evomerge.study.journal.record import Record

_TEXT = "text+"
_PAUSES = (0.0, 2.0, 10.0)  # seconds before each try
_LIMIT = 10.0  # seconds for one try


class Notice:
    """Posts when a search ends: with a verdict, by an interrupt, or by an error.

    The body is JSON: ``text`` and ``content`` hold the message, as Slack, Mattermost and Discord
    read it; beside them are ``run``, ``state`` (``finished``, ``interrupted`` or ``failed``),
    ``trials``, ``improvement_shown`` and ``comparisons``. A URL ``text+https://…`` gets the message
    alone, as ntfy takes it. A post that fails is tried three times, and never ends a study.

    Args:
        url: ``https://…``, ``http://…``, or either behind ``text+``.
        directory: The run folder.

    Raises:
        UserError: It is no such URL.
    """

    def __init__(self, url: str, directory: Path) -> None:
        self._url = url.removeprefix(_TEXT)
        self._is_text = url.startswith(_TEXT)
        self._directory = directory
        if not self._url.startswith(("https://", "http://")):
            raise UserError(
                f"--notify: expected https://… or text+https://…, got {redact(url)[:80]!r}"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            state, text = "finished", ""
        elif issubclass(kind, KeyboardInterrupt):
            state, text = "interrupted", "interrupted; the same command resumes it"
        else:
            state, text = "failed", f"failed: {' '.join(str(error).split())}"
        body = self._body(state, text)
        for pause in _PAUSES[:1] if state == "interrupted" else _PAUSES:
            time.sleep(pause)
            failure = self._post(body)
            if failure is None:
                return
        print(f"notify: {redact(failure or '')}", flush=True)

    def _body(self, state: str, text: str) -> dict[str, Any]:
        journal = self._directory / JOURNAL
        record = Record()
        with contextlib.suppress(UserError):  # the message says what is wrong with it
            record = Record.read(self._directory) if journal.is_file() else record
        body: dict[str, Any] = {"run": str(self._directory), "state": state}
        body["trials"] = record.n_searched
        verdict = record.verdict
        if verdict is not None and state == "finished":
            text = verdict.sentence
            body["improvement_shown"] = verdict.improvement_shown
            body["comparisons"] = [
                {"against": c.against, "difference": c.difference, "low": c.low, "high": c.high}
                for c in verdict.comparisons
            ]
        message = redact(f"evomerge {self._directory.name}: {text}")
        return {"text": message, "content": message, **body}

    def _post(self, body: dict[str, Any]) -> str | None:
        """Post once; returns what failed, or ``None``."""
        content = body["text"] if self._is_text else json.dumps(body)
        kind = "text/plain; charset=utf-8" if self._is_text else "application/json"
        headers = {"Content-Type": kind, "User-Agent": "evomerge"}
        try:
            request = urllib.request.Request(self._url, content.encode(), headers)
            with urllib.request.urlopen(request, timeout=_LIMIT):
                return None
        except (OSError, ValueError) as error:
            return f"{self._url} was not reached: {error}"
