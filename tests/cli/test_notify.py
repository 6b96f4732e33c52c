"""`--notify`: what is posted to a real server when a search ends."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from evomerge.cli import notify
from evomerge.cli.notify import Notice
from evomerge.core.errors import UserError


class Server(HTTPServer):
    """Keeps what is posted; answers with the codes of `answers` in turn, then with 200."""

    posts: list[tuple[str, bytes]]
    answers: list[int]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/topic"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posts.append((self.headers["Content-Type"], body))
        self.send_response(self.server.answers.pop(0) if self.server.answers else 200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(notify, "_PAUSES", (0.0, 0.0, 0.0))
    with Server(("127.0.0.1", 0), Handler) as one:
        one.posts, one.answers = [], []
        threading.Thread(target=one.serve_forever, daemon=True).start()
        yield one
        one.shutdown()


def test_an_error_is_posted_and_goes_on_its_way(server: Server, tmp_path: Path) -> None:
    def fail() -> None:
        with Notice(server.address, tmp_path / "night"):
            raise UserError("the disk is full,\n  token=abcdefgh")

    with pytest.raises(UserError, match="the disk is full"):
        fail()
    [(kind, body)] = server.posts
    text = "evomerge night: failed: the disk is full, token=[redacted]"
    assert kind == "application/json"
    assert json.loads(body) == {
        "text": text,
        "content": text,
        "run": str(tmp_path / "night"),
        "state": "failed",
        "trials": 0,
    }


def test_a_chat_that_takes_text_gets_the_message_alone(server: Server, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Notice(f"text+{server.address}", tmp_path / "night"):
        raise KeyboardInterrupt
    assert server.posts == [
        (
            "text/plain; charset=utf-8",
            b"evomerge night: interrupted; the same command resumes it",
        )
    ]


def test_a_post_is_tried_three_times_and_then_given_up(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers = [500, 503]
    with Notice(server.address, tmp_path):
        pass
    assert len(server.posts) == 3
    assert capsys.readouterr().out == ""
    server.answers = [500, 500, 404]
    with Notice(server.address, tmp_path):
        pass
    assert len(server.posts) == 6
    assert "was not reached: HTTP Error 404: Not Found" in capsys.readouterr().out


@pytest.mark.parametrize("url", ["ntfy.sh/topic", "file:///etc/passwd", "text+ftp://x"])
def test_an_address_that_is_none_is_refused_before_the_search(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="--notify: expected https"):
        Notice(url, tmp_path)
