"""Each reason for which the hub gives nothing has a sentence of its own, with the remedy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from evomerge.checkpoint.files.folder import resolve
from evomerge.core.errors import UserError

Refuse = Callable[[int, str], list[str]]


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Refuse]:
    """Let the hub answer with a status and an error code; returns the list of what it was asked."""
    servers = []

    def start(status: int, code: str) -> list[str]:
        asked: list[str] = []

        class Hub(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(status)
                self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Hub)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        return asked

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "GatedRepo", ("org/name is gated", "accept its terms", "HF_TOKEN")),
        (401, "RepoNotFound", ("shows no repository org/name", "private", "HF_TOKEN")),
        (404, "RevisionNotFound", ("no revision 'v9'", "refs/pr/NUMBER")),
        (418, "", ("the hub could not deliver it", "418")),
    ],
)
def test_a_refusal_is_named_with_its_remedy(
    refuse: Refuse, status: int, code: str, words: tuple[str, ...]
) -> None:
    refuse(status, code)
    with pytest.raises(UserError) as error:
        resolve("org/name@v9")
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_a_pull_requests_revision_is_one(refuse: Refuse) -> None:
    asked = refuse(404, "RevisionNotFound")
    with pytest.raises(UserError, match="no revision 'refs/pr/3'"):
        resolve("org/name@refs/pr/3")
    assert asked == ["/api/models/org/name/revision/refs%2Fpr%2F3"]


@pytest.mark.parametrize(("offline", "word"), [(True, "HF_HUB_OFFLINE is set"), (False, "network")])
def test_no_connection_is_told_from_no_wish_for_one(
    monkeypatch: pytest.MonkeyPatch, offline: bool, word: str
) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("not here")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(UserError, match=word):
        resolve("org/name")


def test_a_path_with_three_parts_is_no_hub_id(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a hub id"):
        resolve(f"{tmp_path.name}/a/b")
