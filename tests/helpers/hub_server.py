"""A stand-in for a hub: the part of its HTTP API that uploading needs, and a record of what came."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class HubServer(ThreadingHTTPServer):
    """Knows one token; keeps repositories and files in memory."""

    def __init__(self, token: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token = token
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: HubServer

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_PUT(self) -> None:  # no token: the address itself is the permission
        self.server.blobs[self.path.rpartition("/")[2]] = self.body()
        self.answer({})

    def do_GET(self) -> None:
        self.answer({"error": "not here"}, 404)

    def do_POST(self) -> None:
        body = self.body()
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self.answer({"error": "Invalid username or password."}, 401)
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            self.server.created.append(wanted)
            name = f"{wanted.get('organization', 'me')}/{wanted['name']}"
            return self.answer({"url": f"{self.server.address}/{name}"})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
            return self.answer(
                {"files": [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]}
            )
        if self.path.endswith("/info/lfs/objects/batch"):
            return self.answer(
                {"transfer": "basic", "objects": [self.place(one) for one in json.loads(body)["objects"]]}
            )
        if "/commit/" in self.path:
            for line in body.splitlines():
                self.keep(**json.loads(line))
            address = f"{self.server.address}/me/adapter"
            return self.answer({"commitUrl": f"{address}/commit/{'0' * 40}", "commitOid": "0" * 40, "success": True})
        return self.answer({"error": f"unknown path {self.path}"}, 404)

    def place(self, wanted: dict[str, Any]) -> dict[str, Any]:
        return {**wanted, "actions": {"upload": {"href": f"{self.server.address}/blobs/{wanted['oid']}"}}}

    def keep(self, key: str, value: dict[str, Any]) -> None:
        if key == "file":
            self.server.files[value["path"]] = base64.b64decode(value["content"])
        if key == "lfsFile":
            self.server.files[value["path"]] = self.server.blobs[value["oid"]]


@contextmanager
def hub_server(token: str) -> Iterator[HubServer]:
    """A server that runs while the block does."""
    server = HubServer(token)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
