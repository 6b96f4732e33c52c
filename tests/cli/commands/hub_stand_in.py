"""A local stand-in for the Hub's HTTP interface: what making a model and uploading files needs."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_the_stand_in"


class Hub:
    """Keeps repositories: {name: {"private": true, "files": {path: bytes}}}."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}
        self.objects: dict[str, bytes] = {}
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/validate-yaml":  # of cards; asked without a token
            self._answer(200, {"errors": [], "warnings": []})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid credentials"})
        elif self.path == "/api/repos/create":
            result = json.loads(body)
            name = f"{result.get('organization') or 'me'}/{result['name']}"
            repositories = self.hub.repositories
            repositories.setdefault(name, {"private": _is_private(result), "files": {}})
            self._answer(200, {"url": f"{self.hub.url}/{name}", "name": name, "id": name})
        elif self.path.startswith("/api/models/") and "/preupload/" in self.path:
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        elif self.path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {
                    **{key: each[key] for key in ("oid", "size")},
                    "actions": {"upload": {"href": f"{self.hub.url}/objects/{each['oid']}"}},
                }
                for each in json.loads(body)["objects"]
            ]
            self._answer(200, {"transfer": "basic", "objects": objects})
        elif self.path.startswith("/api/models/") and "/commit/" in self.path:
            files = self.hub.repositories[self._name()]["files"]
            for line in body.decode().splitlines():
                result = json.loads(line)
                if result["key"] == "file":
                    value = result["value"]
                    assert value["encoding"] == "base64"
                    files[value["path"]] = base64.b64decode(value["content"])
                elif result["key"] == "lfsFile":
                    files[result["value"]["path"]] = self.hub.objects[result["value"]["oid"]]
            answer = {"commitUrl": f"{self.hub.url}/{self._name()}/commit/1", "commitOid": "1"}
            self._answer(200, {"success": True, **answer, "hookOutput": ""})
        else:
            self._answer(404, {"error": self.path})

    def do_PUT(self) -> None:
        length = int(self.headers["Content-Length"])
        self.hub.objects[self.path.rpartition("/")[2]] = self.rfile.read(length)
        self._answer(200, {})

    def do_GET(self) -> None:
        self._answer(200, {"id": "me", "siblings": [], "sha": "1"})

    def _name(self) -> str:
        return "/".join(self.path.split("/")[3:5])

    def _answer(self, code: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _is_private(result: dict[str, Any]) -> bool:
    """Older clients say ``private``, newer ones ``visibility``."""
    return bool(result.get("private")) or result.get("visibility") == "private"
